// The comparison key of a document, what it is compared by: characters mapped one by one (NFKC, lower case), punctuation and white space left out.
//
// What a character is mapped to comes from outside, a page of 256 code points at a time and only for pages that occur, so there is one
// definition, and one version of Unicode, for this and for whoever defines the pages. Normalising character by character is normalising
// the text, unless a character may combine with the one before it; a text with such a character is refused, and the caller, who has a
// full normaliser, makes its comparison key.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace hanlin {

class ComparisonKeyTable {
 public:
  static constexpr std::uint32_t kPageSize = 256;

  // What a mapped character is; in the upper eight bits of its 32, above the code point.
  enum Kind : std::uint32_t {
    Kept,
    Digit,    // kept
    Sign,     // kept between two digits
    Dropped,
  };

  // What became of a text: Mapped, or nothing as it needs a normaliser, or nothing as a page is needed that is not defined.
  struct Outcome {
    enum What { Mapped, Refused, Undefined } what;
    std::uint32_t page;  // if Undefined
  };

  // Defines the code points of a page. mapped[i]: the characters that i becomes, with their kinds, or nothing and refused[i] set.
  // Throws std::invalid_argument unless there are 256 of each, code points that exist, of kinds that exist.
  void define(std::uint32_t page, const std::vector<std::vector<std::uint32_t>>& mapped, const std::vector<bool>& refused);

  // Appends the comparison key of `text` to `out`, or leaves `out` as it was. Bytes that are not UTF-8 are as if they were not there.
  Outcome append(std::string_view text, std::string& out) const;

 private:
  // An entry: a kind and a code point; or that there are several characters, and where they are; or that it is refused.
  static constexpr std::uint32_t kSeveral = 4, kRefused = 5, kKindShift = 24, kPointMask = 0xFFFFFF;
  using Page = std::array<std::uint32_t, kPageSize>;

  std::array<std::unique_ptr<Page>, 0x110000 / kPageSize> pages_;
  std::vector<std::vector<std::uint32_t>> several_;
};

}  // namespace hanlin
