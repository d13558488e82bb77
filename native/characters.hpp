// What kind of character each code point is, for the cleaning of corpora. The table is made by hanlin.corpus.text.characters, which says what
// each flag means; the bits are the same there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "unicode.hpp"

namespace hanlin {

enum CharacterFlag : std::uint32_t {
  kHan = 1u << 0,
  kDigit = 1u << 1,
  kLetter = 1u << 2,
  kSpace = 1u << 3,
  kPunctuation = 1u << 4,
  kTerminal = 1u << 5,
  kSymbol = 1u << 6,
  kNewline = 1u << 7,
  kReplacement = 1u << 8,
  kCommon = 1u << 9,
  kTraditional = 1u << 10,
  kBullet = 1u << 11,
  kBracket = 1u << 12,
  kLatin = 1u << 13,
  kKana = 1u << 14,
  kHangul = 1u << 15,
  kCyrillic = 1u << 16,
  kEllipsis = 1u << 17,
  // What normalisation looks for.
  kGbkTrace = 1u << 18,
  kWestern = 1u << 19,
  kInvisible = 1u << 20,
  kBreak = 1u << 21,
  kOddSpace = 1u << 22,
  kUncomposed = 1u << 23,
  kLeftover = 1u << 24,
};

class CharacterTable {
 public:
  // Flags of all code points. Throws std::invalid_argument where there are fewer or more.
  explicit CharacterTable(std::vector<std::uint32_t> flags) : flags_(std::move(flags)) {
    if (flags_.size() != kCodePoints) throw std::invalid_argument("a table of characters has 0x110000 entries");
  }
  std::uint32_t operator[](std::uint32_t code_point) const { return flags_[code_point]; }

 private:
  std::vector<std::uint32_t> flags_;
};

// As decode_unit, but a lone surrogate is a character, as it is in Python, and a stray byte is a replacement character.
inline Unit decode_character(std::string_view text, std::size_t position) {
  const Unit unit = decode_unit(text, position);
  if (unit.code_point != kInvalid) return unit;
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data()) + position;
  if (text.size() - position >= 3 && bytes[0] == 0xED && is_continuation(bytes[1]) && is_continuation(bytes[2])) {
    return {0xD000u | (bytes[1] & 0x3Fu) << 6 | (bytes[2] & 0x3Fu), 3};
  }
  return {0xFFFD, 1};
}

}  // namespace hanlin
