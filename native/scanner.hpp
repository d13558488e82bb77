// Cuts text into pre-tokens, exactly as this regular expression would:
//
//   \p{N} | 's | 't | 're | 've | 'm | 'll | 'd |  ?\p{L}+ |  ?[^\s\p{L}\p{N}]+ | \s+(?=\p{N}) | \s+(?!\S) | \s+
//
// It is what llama.cpp calls "starcoder", where it stands in two steps: numbers are cut out one by one, and GPT-2's pattern cuts the rest.
// No mark is glued to the word behind it. Bytes that are not valid UTF-8 count as characters that are neither letter, number nor space. Every byte of the text lies
// in exactly one pre-token.
#pragma once

#include <cstddef>
#include <string_view>

#include "unicode.hpp"

namespace hanlin {

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text), classes_(char_classes()) {}

  // The next pre-token; empty at the end of the text.
  std::string_view next() {
    const std::size_t begin = position_;
    if (begin < text_.size()) position_ = end_of_pretoken(begin);
    return text_.substr(begin, position_ - begin);
  }

 private:
  struct Character {
    CharClass kind;
    std::size_t end;  // position just after it; equal to its own position at the end of the text
  };

  Character at(std::size_t position) const {
    if (position >= text_.size()) return {CharClass::Space, position};  // no rule reads on past the end
    const Unit unit = decode_unit(text_, position);
    return {class_of(classes_, unit), position + unit.size};
  }

  std::size_t end_of_pretoken(std::size_t begin) const;
  std::size_t end_of_contraction(std::size_t begin) const;
  std::size_t skip(std::size_t position, CharClass kind) const;
  std::size_t end_of_space(std::size_t begin) const;

  std::string_view text_;
  const CharClass* classes_;
  std::size_t position_ = 0;
};

}  // namespace hanlin
