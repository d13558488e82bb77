// UTF-8 and the four classes of characters that the split pattern distinguishes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace hanlin {

enum class CharClass : std::uint8_t {
  Other,   // punctuation, symbols, marks, controls, unassigned, and every byte that is not valid UTF-8
  Letter,  // \p{L}
  Number,  // \p{N}
  Space,   // \s
};

// One unit of text: a character, or a single byte where the text is not valid UTF-8.
struct Unit {
  std::uint32_t code_point;  // kInvalid for a stray byte
  std::uint32_t size;        // in bytes, 1 to 4
};

inline constexpr std::uint32_t kInvalid = 0xFFFFFFFF;
inline constexpr std::uint32_t kCodePoints = 0x110000;

// Table of kCodePoints classes; built once, on first use, and constant from then on.
const CharClass* char_classes();

inline bool is_continuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

// The unit at `position`, which must lie within `text`. Overlong forms, surrogates and code points past U+10FFFF are invalid.
inline Unit decode_unit(std::string_view text, std::size_t position) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(text.data()) + position;
  const std::size_t left = text.size() - position;
  const unsigned char lead = bytes[0];
  if (lead < 0x80) return {lead, 1};
  if (lead >= 0xE0 && lead < 0xF0) {
    if (left >= 3 && is_continuation(bytes[1]) && is_continuation(bytes[2])) {
      const std::uint32_t point = (lead & 0x0Fu) << 12 | (bytes[1] & 0x3Fu) << 6 | (bytes[2] & 0x3Fu);
      if (point >= 0x800 && (point < 0xD800 || point > 0xDFFF)) return {point, 3};
    }
  } else if (lead >= 0xC2 && lead < 0xE0) {
    if (left >= 2 && is_continuation(bytes[1])) return {(lead & 0x1Fu) << 6 | (bytes[1] & 0x3Fu), 2};
  } else if (lead >= 0xF0 && lead < 0xF5) {
    if (left >= 4 && is_continuation(bytes[1]) && is_continuation(bytes[2]) && is_continuation(bytes[3])) {
      const std::uint32_t point =
          (lead & 0x07u) << 18 | (bytes[1] & 0x3Fu) << 12 | (bytes[2] & 0x3Fu) << 6 | (bytes[3] & 0x3Fu);
      if (point >= 0x10000 && point < kCodePoints) return {point, 4};
    }
  }
  return {kInvalid, 1};
}

inline CharClass class_of(const CharClass* classes, Unit unit) {
  return unit.code_point == kInvalid ? CharClass::Other : classes[unit.code_point];
}

// The encoding of a code point.
std::string utf8(std::uint32_t code_point);

// Characters in a token: 0 for a piece of one character (or stray bytes), else how many whole characters it spells.
// A token that mixes whole characters with pieces has no such number; `mixed` tells.
struct Shape {
  std::size_t characters;
  bool whole;  // valid UTF-8 throughout
  bool piece;  // a proper part of one character's encoding: may stand at its head, in its middle or at its tail
  bool mixed() const { return !whole && !piece; }
};

Shape shape_of(std::string_view token);

}  // namespace hanlin
