#include "vocabulary.hpp"

#include <array>
#include <bit>
#include <cstdint>
#include <deque>
#include <stdexcept>

#include "counter.hpp"
#include "unicode.hpp"

namespace hanlin {

namespace {

// ---------------------------------------------------------------- JSON, as much of it as is needed

// A place in a document. Strings are views into it, or into `unescaped` where they hold escapes.
class Cursor {
 public:
  explicit Cursor(std::string_view json) : json_(json) {}

  std::size_t position() const { return position_; }

  // The next character that is not white space, 0 at the end; it is not taken.
  char peek() {
    while (position_ < json_.size() && (json_[position_] == ' ' || json_[position_] == '\n' || json_[position_] == '\r' || json_[position_] == '\t')) ++position_;
    return position_ < json_.size() ? json_[position_] : '\0';
  }

  bool take(char wanted) {
    if (peek() != wanted || position_ == json_.size()) return false;
    ++position_;
    return true;
  }

  void expect(char wanted) {
    if (!take(wanted)) fail(std::string("expected ") + wanted);
  }

  std::string_view string() {
    expect('"');
    const std::size_t begin = position_;
    bool escapes = false;
    while (position_ < json_.size() && json_[position_] != '"') {
      const bool escape = json_[position_] == '\\';
      escapes |= escape;
      position_ += escape ? 2 : 1;
    }
    if (position_ >= json_.size()) fail("a string without an end");
    const std::string_view raw = json_.substr(begin, position_++ - begin);
    return escapes ? unescape(raw) : raw;
  }

  std::size_t number() {
    peek();
    const std::size_t begin = position_;
    std::size_t value = 0;
    while (position_ < json_.size() && json_[position_] >= '0' && json_[position_] <= '9' && position_ - begin < 18) {
      value = value * 10 + static_cast<std::size_t>(json_[position_++] - '0');
    }
    if (position_ == begin) fail("expected a number");
    return value;
  }

  // Passes over a value of any kind.
  void skip() {
    std::size_t depth = 0;
    do {
      const char next = peek();
      if (next == '"') {
        string();
      } else if (next == '{' || next == '[') {
        ++depth;
        ++position_;
      } else if ((next == '}' || next == ']') && depth > 0) {
        --depth;
        ++position_;
      } else if ((next == ',' || next == ':') && depth > 0) {
        ++position_;
      } else {
        const std::size_t begin = position_;
        while (position_ < json_.size() && std::string_view(",:{}[]\" \n\r\t").find(json_[position_]) == std::string_view::npos) ++position_;
        if (position_ == begin) fail("expected a value");
      }
    } while (depth > 0);
  }

  // Calls `visit(key)` before every value of an object; it must take or pass over the value.
  template <typename Visit>
  void object(const Visit& visit) {
    expect('{');
    if (take('}')) return;
    do {
      const std::string_view key = string();
      expect(':');
      visit(key);
    } while (take(','));
    expect('}');
  }

  [[noreturn]] void fail(const std::string& what) const { throw std::invalid_argument(what + " at byte " + std::to_string(position_)); }

 private:
  std::string_view unescape(std::string_view raw) {
    std::string& text = unescaped_.emplace_back();
    for (std::size_t at = 0; at < raw.size(); ++at) {
      if (raw[at] != '\\') {
        text += raw[at];
        continue;
      }
      constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
      const char name = raw[++at];  // there is one: a backslash always took a second character with it
      const std::size_t known = kNames.find(name);
      if (known != std::string_view::npos) {
        text += kMeanings[known];
      } else if (name == 'u' && raw.size() - at > 4) {
        std::uint32_t unit = 0;
        for (std::size_t end = at + 4; at < end;) unit = unit << 4 | hex(raw[++at]);
        append_utf8(unit, text);
      } else {
        fail("an unknown escape before");
      }
    }
    return text;
  }

  std::uint32_t hex(char digit) const {
    if (digit >= '0' && digit <= '9') return static_cast<std::uint32_t>(digit - '0');
    const char lower = static_cast<char>(digit | 0x20);
    if (lower < 'a' || lower > 'f') fail("an unknown escape before");
    return static_cast<std::uint32_t>(lower - 'a' + 10);
  }

  // A surrogate becomes three bytes that are no character: no letter that stands for a byte needs one.
  static void append_utf8(std::uint32_t point, std::string& text) {
    if (point < 0x80) {
      text += static_cast<char>(point);
    } else if (point < 0x800) {
      text += static_cast<char>(0xC0 | point >> 6);
      text += static_cast<char>(0x80 | (point & 0x3F));
    } else {
      text += static_cast<char>(0xE0 | point >> 12);
      text += static_cast<char>(0x80 | (point >> 6 & 0x3F));
      text += static_cast<char>(0x80 | (point & 0x3F));
    }
  }

  std::string_view json_;
  std::size_t position_ = 0;
  std::deque<std::string> unescaped_;  // which does not move what it holds
};

// ---------------------------------------------------------------- letters and ids

struct SpeltToken {
  std::string_view letters;
  std::size_t id;
};

// Visible characters of Latin-1 stand for themselves; the other bytes, in their order, for the characters from U+0100 on.
constexpr std::uint32_t kLetters = 0x100 + 68;
constexpr std::uint16_t kNoByte = 0xFFFF;

std::array<std::uint16_t, kLetters> bytes_of_letters() {
  std::array<std::uint16_t, kLetters> bytes;
  bytes.fill(kNoByte);
  std::size_t hidden = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 0x21 && byte < 0x7F) || (byte >= 0xA1 && byte < 0xAD) || byte >= 0xAE;
    bytes[visible ? byte : hidden++] = static_cast<std::uint16_t>(byte);
  }
  return bytes;
}

std::string bytes_of(std::string_view letters) {
  static const std::array<std::uint16_t, kLetters> table = bytes_of_letters();
  std::string bytes;
  for (std::size_t position = 0; position < letters.size();) {
    const Unit unit = decode_unit(letters, position);
    const std::uint16_t byte = unit.code_point < kLetters ? table[unit.code_point] : kNoByte;
    if (byte == kNoByte) throw std::invalid_argument("vocab: \"" + std::string(letters) + "\" has a character that stands for no byte");
    bytes += static_cast<char>(byte);
    position += unit.size;
  }
  return bytes;
}

// Ids by the letters of their tokens.
class Index {
 public:
  explicit Index(const std::vector<SpeltToken>& tokens) : tokens_(tokens), slots_(std::bit_ceil(tokens.size() * 2 + 1), kFree) {
    for (std::size_t at = 0; at < tokens.size(); ++at) {
      std::uint32_t& slot = slots_[slot_of(tokens[at].letters)];
      if (slot != kFree) throw std::invalid_argument("vocab: \"" + std::string(tokens[at].letters) + "\" is there twice");
      slot = static_cast<std::uint32_t>(at);
    }
  }

  Id id(std::string_view letters, std::size_t rank) const {
    const std::uint32_t at = slots_[slot_of(letters)];
    if (at == kFree) throw std::invalid_argument("merge " + std::to_string(rank) + ": \"" + std::string(letters) + "\" is not in vocab");
    return static_cast<Id>(tokens_[at].id);
  }

 private:
  static constexpr std::uint32_t kFree = 0xFFFFFFFF;

  std::size_t slot_of(std::string_view letters) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = hash_bytes(letters) & mask;
    while (slots_[slot] != kFree && tokens_[slots_[slot]].letters != letters) slot = (slot + 1) & mask;
    return slot;
  }

  const std::vector<SpeltToken>& tokens_;
  std::vector<std::uint32_t> slots_;
};

std::vector<std::string> bytes_by_id(const std::vector<SpeltToken>& tokens) {
  if (tokens.size() > MergeTable::kMaxTokens) throw std::invalid_argument("vocab: more than 2^21 - 1 tokens");
  std::vector<std::string> bytes(tokens.size());
  std::vector<bool> taken(tokens.size(), false);
  for (const SpeltToken& token : tokens) {
    if (token.id >= tokens.size() || taken[token.id]) throw std::invalid_argument("vocab: the ids are not 0, 1, 2, …");
    taken[token.id] = true;
    bytes[token.id] = bytes_of(token.letters);
  }
  return bytes;
}

}  // namespace

Vocabulary read_vocabulary(std::string_view json, std::string& rest) {
  Cursor cursor(json);
  std::vector<SpeltToken> tokens;
  std::vector<std::pair<std::string_view, std::string_view>> merges;
  bool has_vocab = false, has_merges = false;
  std::size_t copied = 0;
  rest.clear();
  const auto replace = [&](std::size_t begin, std::string_view by) {
    rest.append(json.substr(copied, begin - copied)).append(by);
    copied = cursor.position();
  };
  const auto read_vocab = [&] {
    cursor.object([&](std::string_view letters) { tokens.push_back({letters, cursor.number()}); });
  };
  const auto read_merges = [&] {
    cursor.expect('[');
    if (cursor.take(']')) return;
    do {
      if (!cursor.take('[')) throw std::invalid_argument("merge " + std::to_string(merges.size()) + " is not a pair");
      const std::string_view left = cursor.string();
      cursor.expect(',');
      merges.emplace_back(left, cursor.string());
      cursor.expect(']');
    } while (cursor.take(','));
    cursor.expect(']');
  };
  cursor.object([&](std::string_view outer) {
    if (outer != "model" || cursor.peek() != '{') return cursor.skip();
    cursor.object([&](std::string_view key) {
      const char opens = cursor.peek();
      const std::size_t begin = cursor.position();
      if (key == "vocab" && opens == '{' && !has_vocab) {
        has_vocab = true;
        read_vocab();
        replace(begin, "{}");
      } else if (key == "merges" && opens == '[' && !has_merges) {
        has_merges = true;
        read_merges();
        replace(begin, "[]");
      } else {
        cursor.skip();
      }
    });
  });
  rest.append(json.substr(copied));
  if (!has_vocab || !has_merges) throw std::invalid_argument(has_vocab ? "model: no merges" : "model: no vocab");

  Vocabulary vocabulary{bytes_by_id(tokens), {}};
  const Index index(tokens);
  vocabulary.merges.reserve(merges.size());
  std::string joined;
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    joined.assign(left).append(right);
    vocabulary.merges.push_back({index.id(left, rank), index.id(right, rank), index.id(joined, rank)});
  }
  return vocabulary;
}

}  // namespace hanlin
