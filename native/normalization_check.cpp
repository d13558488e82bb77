#include "normalization_check.hpp"

#include <cstddef>

namespace hanlin {

namespace {

constexpr std::uint32_t kIdeographicSpace = 0x3000;
constexpr std::size_t kHead = 2000;  // characters

bool is_ascii_letter(std::uint32_t point) { return (point | 0x20) - 'a' < 26; }
bool is_blank(std::uint32_t point) { return point == ' ' || point == '\t' || point == kIdeographicSpace; }

bool begins_tag(std::uint32_t left, std::uint32_t right) {
  if (left == '<') return is_ascii_letter(right) || right == '/' || right == '!' || right == '?';
  return left == '&' && (is_ascii_letter(right) || right == '#');
}

// UTF-8 read as GBK leaves its traces in a third of all characters; real text has them in one of a hundred.
bool is_traced(std::size_t in_head, std::size_t traces, std::size_t characters) {
  if (characters == 0) return false;
  const std::size_t head = characters < kHead ? characters : kHead;
  return static_cast<double>(in_head) / static_cast<double>(head) > 0.08 ||
         (characters > kHead && static_cast<double>(traces) / static_cast<double>(characters) > 0.02);
}

}  // namespace

std::uint32_t needs_normalization(std::string_view text, const CharacterTable& table) {
  std::uint32_t seen = 0, found = 0;
  std::size_t characters = 0, traces = 0, in_head = 0, breaks = 0;
  std::uint32_t previous = '\n';
  bool leftover = false;
  for (std::size_t position = 0; position < text.size(); ++characters) {
    const Unit unit = decode_character(text, position);
    const std::uint32_t point = unit.code_point, flags = table[point];
    seen |= flags;
    position += unit.size;
    if (point > kIdeographicSpace && !(flags & (kGbkTrace | kLeftover))) {  // nearly all of Chinese text: nothing below concerns it
      breaks = 0;
      leftover = false;
      previous = point;
      continue;
    }
    if (flags & kGbkTrace) {
      ++traces;
      in_head += characters < kHead;
    }
    if (point == '\n') {
      if (is_blank(previous)) found |= kTrailing;
      if (++breaks > 2 || characters == 0) found |= kBlank;
    } else {
      breaks = 0;
      if (point == kIdeographicSpace && previous == '\n') found |= kTrailing;
      if (previous == '<' || previous == '&') found |= begins_tag(previous, point) ? kTagged : 0u;
    }
    if (flags & kLeftover) found |= leftover ? kLeftovers : 0u;
    leftover = (flags & kLeftover) != 0;
    previous = point;
  }
  if (characters > 0 && is_blank(previous)) found |= kTrailing;
  if (characters > 0 && previous == '\n') found |= kBlank;
  if (seen & kWestern || is_traced(in_head, traces, characters)) found |= kMojibake;
  if (seen & kBreak) found |= kBreaks;
  if (seen & kOddSpace) found |= kOddSpaces;
  if (seen & kInvisible) found |= kControls;
  if (seen & kUncomposed) found |= kNotComposed;
  return found;
}

}  // namespace hanlin
