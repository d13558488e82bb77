#include "scanner.hpp"

namespace hanlin {

// The alternatives of the pattern in their order; the first that matches wins, as in a backtracking engine.
std::size_t Scanner::end_of_pretoken(std::size_t begin) const {
  const Character first = at(begin);
  if (first.kind == CharClass::Letter) return skip(first.end, CharClass::Letter);
  if (first.kind == CharClass::Number) return first.end;

  if (text_[begin] == '\'') {
    const std::size_t end = end_of_contraction(begin);
    if (end != begin) return end;
  }
  if (first.kind != CharClass::Newline) {
    const Character second = at(first.end);
    if (second.kind == CharClass::Letter) return skip(second.end, CharClass::Letter);
    const bool symbols = first.kind == CharClass::Other || (text_[begin] == ' ' && second.kind == CharClass::Other);
    if (symbols) return skip(skip(first.end, CharClass::Other), CharClass::Newline);
  }
  return end_of_space(begin);
}

// The end of 's, 't, 're, 've, 'm, 'll or 'd at `begin`, in either case; `begin` itself if there is none.
std::size_t Scanner::end_of_contraction(std::size_t begin) const {
  const auto lower = [&](std::size_t position) {
    return position < text_.size() ? static_cast<char>(text_[position] | 0x20) : '\0';  // only compared with letters
  };
  switch (lower(begin + 1)) {
    case 's': case 't': case 'm': case 'd': return begin + 2;
    case 'r': case 'v': return lower(begin + 2) == 'e' ? begin + 3 : begin;
    case 'l': return lower(begin + 2) == 'l' ? begin + 3 : begin;
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

// `\s*[\r\n]+ | \s+(?!\S) | \s+` : through the last newline of the run of white space; without one, the whole run at the end of
// the text; otherwise all but its last character, which belongs to what follows, unless it is the only one.
std::size_t Scanner::end_of_space(std::size_t begin) const {
  std::size_t position = begin, last = begin, after_newline = begin;
  while (position < text_.size()) {
    const Character next = at(position);
    if (next.kind != CharClass::Space && next.kind != CharClass::Newline) break;
    last = position;
    position = next.end;
    if (next.kind == CharClass::Newline) after_newline = position;
  }
  if (after_newline != begin) return after_newline;
  if (position == text_.size() || last == begin) return position;
  return last;
}

}  // namespace hanlin
