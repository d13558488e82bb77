#include "comparison_key.hpp"

#include <stdexcept>

#include "unicode.hpp"

namespace hanlin {

namespace {

void put_utf8(std::uint32_t point, std::string& out) {
  if (point < 0x80) {
    out.push_back(static_cast<char>(point));
  } else if (point >= 0x800 && point < 0x10000) {
    const char bytes[3] = {static_cast<char>(0xE0 | point >> 12), static_cast<char>(0x80 | (point >> 6 & 0x3F)), static_cast<char>(0x80 | (point & 0x3F))};
    out.append(bytes, 3);
  } else {
    out += utf8(point);
  }
}

// Takes mapped characters one after another and appends those that stay. A sign waits until the character after it is known.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}

  // Characters that stay as they are, none of them a digit.
  void put(std::string_view bytes) {
    if (bytes.empty()) return;
    out_.append(bytes);
    sign_ = 0;
    digit_ = false;
  }

  void put(std::uint32_t kind, std::uint32_t point) {
    const bool after_digit = digit_;
    digit_ = kind == ComparisonKeyTable::Digit;
    if (sign_ != 0) {
      if (digit_) put_utf8(sign_, out_);
      sign_ = 0;
    }
    if (kind == ComparisonKeyTable::Sign) {
      if (after_digit) sign_ = point;
    } else if (kind != ComparisonKeyTable::Dropped) {
      put_utf8(point, out_);
    }
  }

 private:
  std::string& out_;
  std::uint32_t sign_ = 0;
  bool digit_ = false;
};

}  // namespace

void ComparisonKeyTable::define(std::uint32_t page, const std::vector<std::vector<std::uint32_t>>& mapped, const std::vector<bool>& refused) {
  if (page >= pages_.size()) throw std::invalid_argument("page " + std::to_string(page) + " is past the last code point");
  if (mapped.size() != kPageSize || refused.size() != kPageSize) throw std::invalid_argument("a page has 256 code points");
  auto entries = std::make_unique<Page>();
  for (std::size_t index = 0; index < kPageSize; ++index) {
    for (const std::uint32_t item : mapped[index]) {
      if (item >> kKindShift > Dropped || (item & kPointMask) >= kCodePoints) throw std::invalid_argument("no such kind or code point");
    }
    if (refused[index]) {
      (*entries)[index] = kRefused << kKindShift;
    } else if (mapped[index].size() == 1) {
      (*entries)[index] = mapped[index][0];
    } else {
      (*entries)[index] = kSeveral << kKindShift | static_cast<std::uint32_t>(several_.size());
      several_.push_back(mapped[index]);
    }
  }
  pages_[page] = std::move(entries);
}

ComparisonKeyTable::Outcome ComparisonKeyTable::append(std::string_view text, std::string& out) const {
  const std::size_t before = out.size();
  Writer writer(out);
  std::size_t same = 0;  // from here on, characters stay as they are
  for (std::size_t position = 0; position < text.size();) {
    const Unit unit = decode_unit(text, position);
    const Page* page = unit.code_point == kInvalid ? nullptr : pages_[unit.code_point / kPageSize].get();
    const std::uint32_t entry = page == nullptr ? kRefused << kKindShift : (*page)[unit.code_point % kPageSize];
    if (entry == unit.code_point) {  // kept, and itself
      position += unit.size;
      continue;
    }
    writer.put(text.substr(same, position - same));
    same = position += unit.size;
    const std::uint32_t kind = entry >> kKindShift;
    if (kind <= Dropped) {
      writer.put(kind, entry & kPointMask);
    } else if (kind == kSeveral) {
      for (const std::uint32_t item : several_[entry & kPointMask]) writer.put(item >> kKindShift, item & kPointMask);
    } else if (unit.code_point != kInvalid) {
      out.resize(before);
      if (page == nullptr) return {Outcome::Undefined, unit.code_point / kPageSize};
      return {Outcome::Refused, 0};
    }
  }
  writer.put(text.substr(same));
  return {Outcome::Mapped, 0};
}

}  // namespace hanlin
