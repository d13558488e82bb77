#include "json_lines.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "unicode.hpp"

namespace hanlin {

namespace {

constexpr int kDeepest = 64;
constexpr std::size_t kMostDigits = 15;  // of a number; whether more of them are one is for the full parser to say

bool is_blank(char byte) { return byte == ' ' || byte == '\t' || byte == '\r'; }
bool is_digit(char byte) { return byte >= '0' && byte <= '9'; }

// Reads one line of JSON from left to right; every function says whether it found what it is named after, and stands behind it then.
class Cursor {
 public:
  explicit Cursor(std::string_view line) : line_(line) {}

  bool at_end() const { return position_ == line_.size(); }
  bool at(char byte) const { return !at_end() && line_[position_] == byte; }

  void skip_blanks() {
    while (!at_end() && is_blank(line_[position_])) ++position_;
  }

  bool take(char byte) {
    if (!at(byte)) return false;
    ++position_;
    return true;
  }

  // A string, unescaped behind what `into` holds; not even looked into for what it spells if there is no `into`.
  bool string(std::string* into) {
    if (!take('"')) return false;
    std::size_t begin = position_;
    const auto flush = [&] {
      if (into != nullptr) into->append(line_.substr(begin, position_ - begin));
    };
    while (!at_end()) {
      const auto byte = static_cast<unsigned char>(line_[position_]);
      if (byte == '"') {
        flush();
        ++position_;
        return true;
      }
      if (byte < 0x20) return false;
      if (byte == '\\') {
        flush();
        ++position_;
        if (!escape(into)) return false;
        begin = position_;
        continue;
      }
      if (byte < 0x80) {
        ++position_;
        continue;
      }
      const Unit unit = decode_unit(line_, position_);
      if (unit.code_point == kInvalid) return false;
      position_ += unit.size;
    }
    return false;
  }

  // A string without escapes, as it stands.
  bool key(std::string_view& found) {
    const std::size_t begin = position_ + 1;
    if (!string(nullptr)) return false;
    found = line_.substr(begin, position_ - begin - 1);
    return found.find('\\') == std::string_view::npos;
  }

  bool value(int depth) {
    if (at_end() || depth > kDeepest) return false;
    switch (line_[position_]) {
      case '"': return string(nullptr);
      case '{': return items('{', '}', depth, true);
      case '[': return items('[', ']', depth, false);
      case 't': return word("true");
      case 'f': return word("false");
      case 'n': return word("null");
      default: return number();
    }
  }

 private:
  bool items(char opening, char closing, int depth, bool keyed) {
    if (!take(opening)) return false;
    skip_blanks();
    if (take(closing)) return true;
    do {
      skip_blanks();
      if (keyed) {
        if (!string(nullptr)) return false;
        skip_blanks();
        if (!take(':')) return false;
        skip_blanks();
      }
      if (!value(depth + 1)) return false;
      skip_blanks();
    } while (take(','));
    return take(closing);
  }

  bool word(std::string_view expected) {
    if (line_.substr(position_, expected.size()) != expected) return false;
    position_ += expected.size();
    return true;
  }

  bool digits() {
    const std::size_t begin = position_;
    while (!at_end() && is_digit(line_[position_])) ++position_;
    return position_ > begin && position_ - begin <= kMostDigits;
  }

  bool number() {
    take('-');
    const bool zero = at('0');
    const std::size_t begin = position_;
    if (!digits() || (zero && position_ > begin + 1)) return false;
    return !take('.') || digits();  // an exponent is left standing, and then found to be neither comma nor end
  }

  bool hex(std::uint32_t& value) {
    if (line_.size() - position_ < 4) return false;
    value = 0;
    for (int place = 0; place < 4; ++place) {
      const char byte = line_[position_++];
      const char letter = static_cast<char>(byte | 0x20);
      if (!is_digit(byte) && (letter < 'a' || letter > 'f')) return false;
      value = value << 4 | static_cast<std::uint32_t>(is_digit(byte) ? byte - '0' : letter - 'a' + 10);
    }
    return true;
  }

  // Behind the backslash. Half a surrogate pair is not plain.
  bool escape(std::string* into) {
    if (at_end()) return false;
    const char byte = line_[position_++];
    static constexpr char kNames[] = "\"\\/bfnrt", kMeanings[] = "\"\\/\b\f\n\r\t";
    if (byte != 'u') {
      const void* found = std::memchr(kNames, byte, sizeof(kNames) - 1);
      if (found == nullptr) return false;
      if (into != nullptr) into->push_back(kMeanings[static_cast<const char*>(found) - kNames]);
      return true;
    }
    std::uint32_t point = 0, low = 0;
    if (!hex(point)) return false;
    if (point >= 0xD800 && point <= 0xDFFF) {
      if (point >= 0xDC00 || !take('\\') || !take('u') || !hex(low) || low < 0xDC00 || low > 0xDFFF) return false;
      point = 0x10000 + ((point - 0xD800) << 10 | (low - 0xDC00));
    }
    if (into != nullptr) into->append(utf8(point));
    return true;
  }

  std::string_view line_;
  std::size_t position_ = 0;
};

// Not blank, and no tag in front: such texts are looked at more closely elsewhere.
bool is_plain(std::string_view text) {
  const CharClass* classes = char_classes();
  for (std::size_t position = 0; position < text.size();) {
    const Unit unit = decode_unit(text, position);
    const CharClass kind = class_of(classes, unit);
    if (unit.code_point > 0x20 && kind != CharClass::Space) return text[position] != '<';
    position += unit.size;
  }
  return false;
}

}  // namespace

std::size_t JsonLines::read(std::string_view block, std::size_t begin, TextBatch& texts, std::size_t& lines) const {
  while (begin < block.size()) {
    const std::size_t end = std::min(block.find('\n', begin), block.size());
    const std::string_view line = block.substr(begin, end - begin);
    if (line.size() > longest_ || !read_line(line, texts)) return begin;
    ++lines;
    begin = std::min(end + 1, block.size());
  }
  return begin;
}

bool JsonLines::read_line(std::string_view line, TextBatch& texts) const {
  Cursor cursor(line);
  cursor.skip_blanks();
  if (cursor.at_end()) return true;
  std::uint64_t possible = ~std::uint64_t{0};  // a bit for each shape that the keys so far are the beginning of
  std::size_t keys = 0;
  const auto whole = [&] {
    if (!cursor.take('{')) return false;
    do {
      cursor.skip_blanks();
      std::string_view key;
      if (!cursor.key(key)) return false;
      for (std::size_t shape = 0; shape < shapes_.size(); ++shape) {
        if (keys >= shapes_[shape].size() || shapes_[shape][keys] != key) possible &= ~(std::uint64_t{1} << shape);
      }
      ++keys;
      cursor.skip_blanks();
      if (!cursor.take(':')) return false;
      cursor.skip_blanks();
      if (!(key == text_key_ ? cursor.string(&texts.open()) : cursor.value(0))) return false;
      cursor.skip_blanks();
    } while (cursor.take(','));
    if (!cursor.take('}')) return false;
    cursor.skip_blanks();
    if (!cursor.at_end()) return false;
    for (std::size_t shape = 0; shape < shapes_.size(); ++shape) {
      if ((possible >> shape & 1) != 0 && shapes_[shape].size() == keys) return is_plain(texts.opened());
    }
    return false;
  };
  if (!whole()) {
    texts.drop();
    return false;
  }
  texts.end();
  return true;
}

}  // namespace hanlin
