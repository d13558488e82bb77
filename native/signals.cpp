#include "signals.hpp"

#include <algorithm>
#include <cmath>
#include <span>
#include <stdexcept>
#include <utility>

#include "counter.hpp"

namespace hanlin {

namespace {

constexpr std::string_view kDots[] = {"...", "。。。"};
constexpr std::string_view kPointers[] = {" ", ">", ".", "»", "…", "。", "）", ")", "】", "]", "\u3000"};  // after 展开, and the like

bool ends_with(std::string_view line, std::string_view end) {
  if (line.size() < end.size()) return false;
  line.remove_prefix(line.size() - end.size());
  return std::equal(line.begin(), line.end(), end.begin(), [](char left, char right) { return (left >= 'A' && left <= 'Z' ? left + 32 : left) == right; });
}

}  // namespace

SignalCounter::SignalCounter(std::shared_ptr<const CharacterTable> table, std::vector<std::string> more) : table_(std::move(table)), more_(std::move(more)), numbers_(kCodePoints) {
  for (const std::string& end : more_) close_with(end);
  for (const std::string_view end : kPointers) close_with(end);
  for (std::size_t count = 0; count < kLogarithms; ++count) weights_.push_back(count < 2 ? 0.0 : static_cast<double>(count) * std::log(static_cast<double>(count)));
}

void SignalCounter::close_with(std::string_view end) {
  std::size_t position = end.size();
  while (position > 0 && is_continuation(static_cast<unsigned char>(end[--position]))) {}
  const std::uint32_t point = decode_character(end, position).code_point;
  closing_[point % closing_.size()] = true;
  if (point - 'a' < 26) closing_[(point - 32) % closing_.size()] = true;
}

double SignalCounter::weight(std::uint32_t count) const { return count < kLogarithms ? weights_[count] : count * std::log(static_cast<double>(count)); }

std::uint32_t SignalCounter::number_of(std::uint32_t code_point) {
  Number& known = numbers_[code_point];
  if (known.document != document_) {
    known = {document_, static_cast<std::uint32_t>(counts_.size())};
    points_.push_back(code_point);
    flags_.push_back((*table_)[code_point]);
    counts_.push_back(0);
  }
  ++counts_[known.number];
  return known.number;
}

Signals SignalCounter::measure(std::string_view text, std::vector<std::uint64_t>& line_hashes) {
  if (text.size() > 0xFFFFFFFF) throw std::invalid_argument("a document has 4 GiB at most");
  if (++document_ == 0) {  // every 2^32 documents
    std::fill(numbers_.begin(), numbers_.end(), Number{});
    document_ = 1;
  }
  flags_.clear();
  points_.clear();
  counts_.clear();
  if (words_.size() < text.size()) words_.resize(text.size());
  std::size_t words = 0;
  Signals signals;
  std::size_t words_before = 0;  // the line
  worded_.clear();
  std::size_t begin = 0;
  std::int64_t in_line = 0;
  std::uint32_t first = 0, last = 0;
  for (std::size_t position = 0; position < text.size();) {
    const Unit unit = decode_character(text, position);
    const std::uint32_t number = number_of(unit.code_point);
    const std::uint32_t flags = flags_[number];
    words_[words] = number;
    words += (flags & (kHan | kLetter | kDigit)) != 0;
    if (flags & kNewline) {
      if (in_line != 0) {
        end_line(text.substr(begin, position - begin), first, last, line_hashes, signals);
        if (words > words_before) worded_.push_back(line_hashes.back());
      }
      words_before = words;
      signals.longest_line = std::max(signals.longest_line, in_line);
      begin = position + unit.size;
      in_line = 0;
    } else {
      if (in_line++ == 0) first = unit.code_point;
      last = unit.code_point;
    }
    position += unit.size;
  }
  if (in_line != 0) {
    end_line(text.substr(begin), first, last, line_hashes, signals);
    if (words > words_before) worded_.push_back(line_hashes.back());
  }
  signals.longest_line = std::max(signals.longest_line, in_line);

  lines_.start(worded_.size());
  for (const std::uint64_t hash : worded_) lines_.add(hash);
  signals.repeated_lines = static_cast<std::int64_t>(worded_.size() - lines_.distinct());
  count_kinds(signals);
  signals.grams = repetition_.count(std::span(words_).first(words), counts_);
  return signals;
}

void SignalCounter::end_line(std::string_view line, std::uint32_t first, std::uint32_t last, std::vector<std::uint64_t>& hashes, Signals& signals) {
  const std::uint32_t last_flags = (*table_)[last];
  hashes.push_back(hash_bytes(line));
  signals.lines += 1;
  signals.terminal_lines += (last_flags & kTerminal) != 0;
  signals.bullet_lines += ((*table_)[first] & kBullet) != 0;
  const bool dotted = last == '.' || last == 0x3002;  // 。
  signals.ellipsis_lines += (last_flags & kEllipsis) != 0 || (dotted && std::ranges::any_of(kDots, [&](std::string_view dots) { return line.ends_with(dots); }));
  if (!closing_[last % closing_.size()]) return;
  for (bool trimmed = true; trimmed;) {
    trimmed = false;
    for (const std::string_view pointer : kPointers) {
      if (!line.ends_with(pointer)) continue;
      line.remove_suffix(pointer.size());
      trimmed = true;
    }
  }
  signals.more_lines += std::ranges::any_of(more_, [&](const std::string& end) { return ends_with(line, end); });
}

// A document has far fewer distinct characters than characters: kinds are added up over those.
void SignalCounter::count_kinds(Signals& signals) const {
  std::int64_t total = 0, space = 0;
  double weights = 0;
  const std::pair<std::uint32_t, std::int64_t&> kinds[] = {
      {kSpace, space},           {kHan, signals.han},         {kLetter, signals.letter},           {kDigit, signals.digit},
      {kSymbol, signals.symbol}, {kLatin, signals.latin},     {kPunctuation, signals.punctuation}, {kBracket, signals.bracket},
      {kKana, signals.kana},     {kHangul, signals.hangul},   {kReplacement, signals.replacement}, {kCommon, signals.common},
      {kCyrillic, signals.cyrillic}, {kEllipsis, signals.ellipsis}, {kTraditional, signals.traditional},
  };
  for (const auto& [flag, sum] : kinds) {
    std::int64_t number = 0;
    for (std::size_t index = 0; index < counts_.size(); ++index) number += flags_[index] & flag ? counts_[index] : 0;
    sum = number;
  }
  for (std::size_t index = 0; index < counts_.size(); ++index) {
    total += counts_[index];
    if (points_[index] == '#') signals.number_sign = counts_[index];
    if (flags_[index] & (kHan | kLetter | kDigit)) {
      signals.word += counts_[index];
      weights += weight(counts_[index]);
    }
  }
  signals.solid = total - space;
  const auto words = static_cast<double>(signals.word);
  if (signals.word > 0) signals.entropy = std::max(0.0, std::log(words) - weights / words);
}

}  // namespace hanlin
