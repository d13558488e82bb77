// Whether a text may need repair or normalisation. Most texts need none, and this says so in one pass; where it finds a reason, that is
// only a hint, and hanlin.corpus.text.normalize, which does the work, decides.
#pragma once

#include <cstdint>
#include <string_view>

#include "characters.hpp"

namespace hanlin {

enum NormalizationReason : std::uint32_t {
  kTagged = 1u << 0,        // something like an HTML tag or entity
  kBreaks = 1u << 1,        // line breaks other than \n
  kOddSpaces = 1u << 2,     // white space other than space, tab and the ideographic space
  kControls = 1u << 3,      // characters that nobody sees
  kNotComposed = 1u << 4,   // characters that NFC may change
  kTrailing = 1u << 5,      // a line that ends in white space or begins with an ideographic space
  kBlank = 1u << 6,         // more than one empty line in a row, or any at an end
  kMojibake = 1u << 7,      // marks of a wrong decoding
  kLeftovers = 1u << 8,     // of 锟斤拷 and the like, two characters in a row
};

// The reasons found, 0 for none. A '&' before a letter or '#', or a '<' before a letter, '/', '!' or '?', is the beginning of a tag.
std::uint32_t needs_normalization(std::string_view text, const CharacterTable& table);

}  // namespace hanlin
