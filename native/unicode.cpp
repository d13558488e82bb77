#include "unicode.hpp"

#include <vector>

namespace hanlin {

namespace {

struct Range {
  std::uint32_t first, last;
  CharClass value;
};

constexpr Range kRanges[] = {
#include "unicode_classes.inc"
};

std::vector<CharClass> build_classes() {
  std::vector<CharClass> classes(kCodePoints, CharClass::Other);
  for (const Range& range : kRanges) {
    for (std::uint32_t point = range.first; point <= range.last; ++point) classes[point] = range.value;
  }
  return classes;
}

// Bytes that a character beginning with `lead` has; 0 where no character begins so.
std::size_t encoded_size(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead < 0xE0) return 2;
  if (lead >= 0xE0 && lead < 0xF0) return 3;
  if (lead >= 0xF0 && lead < 0xF5) return 4;
  return 0;
}

}  // namespace

const CharClass* char_classes() {
  static const std::vector<CharClass> classes = build_classes();
  return classes.data();
}

std::string utf8(std::uint32_t code_point) {
  std::string bytes;
  const auto put = [&](std::uint32_t byte) { bytes.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
  return bytes;
}

Shape shape_of(std::string_view token) {
  Shape shape{0, true, false};
  for (std::size_t position = 0; position < token.size();) {
    const Unit unit = decode_unit(token, position);
    if (unit.code_point == kInvalid) {
      shape.whole = false;
      break;
    }
    shape.characters += 1;
    position += unit.size;
  }
  if (shape.whole || token.empty()) return shape;
  shape.characters = 0;
  std::size_t tail = 0;  // continuation bytes at the end
  while (tail < token.size() && is_continuation(static_cast<unsigned char>(token[token.size() - 1 - tail]))) ++tail;
  const std::size_t head = token.size() - tail;
  if (head == 0) {
    shape.piece = tail <= 3;
  } else if (head == 1) {
    // A single byte is always a piece, also one that begins no character: the 256 bytes are where BPE starts from.
    shape.piece = tail == 0 || token.size() < encoded_size(static_cast<unsigned char>(token[0]));
  }
  return shape;
}

}  // namespace hanlin
