#include "scanner.hpp"

namespace hanlin {

// The alternatives of the pattern in their order; the first that matches wins, as in a backtracking engine.
std::size_t Scanner::end_of_pretoken(std::size_t begin) const {
  const Character first = at(begin);
  switch (first.kind) {
    case CharClass::Letter: return skip(first.end, CharClass::Letter);
    case CharClass::Number: return first.end;
    case CharClass::Other: {
      const std::size_t end = end_of_contraction(begin);
      return end != begin ? end : skip(first.end, CharClass::Other);
    }
    case CharClass::Space: break;
  }
  if (text_[begin] == ' ') {
    const Character second = at(first.end);
    if (second.kind == CharClass::Letter || second.kind == CharClass::Other) return skip(second.end, second.kind);
  }
  return end_of_space(begin);
}

// The end of 's, 't, 're, 've, 'm, 'll or 'd at `begin`; `begin` itself if there is none.
std::size_t Scanner::end_of_contraction(std::size_t begin) const {
  if (text_[begin] != '\'') return begin;
  const auto letter = [&](std::size_t position) { return position < text_.size() ? text_[position] : '\0'; };
  switch (letter(begin + 1)) {
    case 's': case 't': case 'm': case 'd': return begin + 2;
    case 'r': case 'v': return letter(begin + 2) == 'e' ? begin + 3 : begin;
    case 'l': return letter(begin + 2) == 'l' ? begin + 3 : begin;
    default: return begin;
  }
}

std::size_t Scanner::skip(std::size_t position, CharClass kind) const {
  while (position < text_.size()) {
    const Character next = at(position);
    if (next.kind != kind) break;
    position = next.end;
  }
  return position;
}

// `\s+(?=\p{N}) | \s+(?!\S) | \s+` : the whole run of white space at the end of the text or before a number; otherwise all but its
// last character, which belongs to what follows, unless it is the only one.
std::size_t Scanner::end_of_space(std::size_t begin) const {
  for (std::size_t position = begin, last = begin;;) {
    const Character next = at(position);
    if (next.end == position) return position;
    if (next.kind != CharClass::Space) return next.kind == CharClass::Number || last == begin ? position : last;
    last = position;
    position = next.end;
  }
}

}  // namespace hanlin
