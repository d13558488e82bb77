#include "pieces.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <stdexcept>
#include <utility>
#include <vector>

#include "scanner.hpp"

namespace hanlin {

namespace {

constexpr std::int64_t kMostThinning = 1 << 20;
constexpr std::int64_t kFew = 4096;

std::size_t characters_of(std::string_view piece) {
  return static_cast<std::size_t>(
      std::count_if(piece.begin(), piece.end(), [](char byte) { return !is_continuation(static_cast<unsigned char>(byte)); }));
}

}  // namespace

PieceCounter::PieceCounter(std::shared_ptr<const Census> census, std::int64_t floor, PieceMemory memory)
    : census_(std::move(census)), floor_(floor), memory_(std::move(memory)), spill_(memory_.folder) {
  std::size_t kept = 0;
  census_->bigrams().each([&](Id, Id, std::int64_t count) { kept += count >= floor_; });
  kept_ = JointSet(kept);
  const Alphabet& alphabet = census_->alphabet();
  census_->bigrams().each([&](Id left, Id right, std::int64_t count) {
    if (count >= floor_) kept_.add(alphabet.code_point(left), alphabet.code_point(right));
  });
}

// Calls close(piece) for every piece of two characters or more: single ones hold no pair, and the census has counted them.
template <typename Close>
void PieceCounter::cut(std::string_view word, Close&& close) const {
  const Alphabet& alphabet = census_->alphabet();
  std::size_t begin = 0, units = 0;  // of the piece that is open
  std::uint32_t previous = 0;
  for (std::size_t position = 0; position < word.size();) {
    const Unit unit = decode_unit(word, position);
    if (unit.code_point == kInvalid) {
      if (units > 1) close(word.substr(begin, position - begin));
      position += unit.size;
      begin = position;
      units = 0;
      continue;
    }
    if (!alphabet.knows(unit.code_point)) throw std::invalid_argument("text that the census has not seen");
    if (units > 0 && !kept_.has(previous, unit.code_point)) {
      if (units > 1) close(word.substr(begin, position - begin));
      begin = position;
      units = 0;
    }
    ++units;
    previous = unit.code_point;
    position += unit.size;
  }
  if (units > 1) close(word.substr(begin));
}

void PieceCounter::require_census() const {
  if (!census_) throw std::invalid_argument("the pieces have been taken");
}

void PieceCounter::add(std::string_view text) {
  require_census();
  Scanner scanner(text);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) {
    cut(word, [&](std::string_view piece) { table_.add_later(piece); });
  }
  table_.flush();
  bytes_ += text.size();
  spill_if_full();
}

void PieceCounter::add_word(std::string_view word, std::int64_t count) {
  require_census();
  cut(word, [&](std::string_view piece) { table_.add(piece, count); });
}

void PieceCounter::merge(PieceCounter& other) {
  if (this == &other || census_ != other.census_ || floor_ != other.floor_) throw std::invalid_argument("pieces of another census or floor");
  if (memory_.table > 0 && !memory_.folder.empty() && table_.memory() + other.table_.memory() > memory_.table) {
    other.spill_.write(other.table_);
  } else {
    table_.add_all(other.table_);
  }
  other.table_ = WordTable();
  spill_.absorb(other.spill_);
  bytes_ += std::exchange(other.bytes_, 0);
}

void PieceCounter::spill_if_full() {
  if (memory_.table == 0 || table_.memory() <= memory_.table) return;
  spill_.write(table_);
  table_ = WordTable();
}

const std::vector<std::string>& PieceCounter::save() {
  require_census();
  if (table_.size() > 0) {
    spill_.write(table_);
    table_ = WordTable();
  }
  return spill_.runs();
}

void PieceCounter::each(const Visit& visit) const {
  if (!spill_.empty()) return spill_.each(table_, visit);
  for (std::size_t index = 0; index < table_.size(); ++index) visit(table_[index].bytes, table_[index].count);
}

// What a piece counts for after thinning: its count, or w for the share count/w of the rarer ones, or nothing.
std::int64_t PieceCounter::weight_of(std::string_view piece, std::int64_t count) const {
  if (count >= thinning_) return count;
  const std::uint64_t draw = hash_bytes(piece) >> 32;  // uniform below 2^32; tables use the other half
  return draw * static_cast<std::uint64_t>(thinning_) < static_cast<std::uint64_t>(count) << 32 ? thinning_ : 0;
}

// Counts symbols by weight first, so that every piece can be put where those of its weight belong.
UnitWords PieceCounter::take_words() {
  require_census();
  const Alphabet& alphabet = census_->alphabet();
  std::vector<std::size_t> few(kFew, 0);                     // symbols by weight, while that is small
  std::map<std::int64_t, std::size_t, std::greater<>> many;  // and where it is not
  const auto of_weight = [&](std::int64_t weight) -> std::size_t& { return weight < kFew ? few[static_cast<std::size_t>(weight)] : many[weight]; };
  const auto measure = [&] {
    std::size_t sum = 0;
    std::fill(few.begin(), few.end(), 0);
    many.clear();
    distinct_ = 0;
    each([&](std::string_view piece, std::int64_t count) {
      ++distinct_;
      const std::int64_t weight = weight_of(piece, count);
      if (weight == 0) return;
      const std::size_t size = characters_of(piece) + 1;
      of_weight(weight) += size;
      sum += size;
    });
    return sum;
  };
  std::size_t sum = measure();
  if (memory_.symbols > 0 && sum > memory_.symbols) {
    // Of the pieces that occur c < w times the share c/w is expected to be left: the least w that should do, and a little more if need be.
    const auto expected = [&](std::int64_t thinning) {
      double kept = static_cast<double>(sum);
      for (std::int64_t count = 1; count < std::min(thinning, kFew); ++count) {
        kept -= static_cast<double>(few[static_cast<std::size_t>(count)]) * (1 - static_cast<double>(count) / static_cast<double>(thinning));
      }
      return kept;
    };
    while (thinning_ < kMostThinning && expected(thinning_) > static_cast<double>(memory_.symbols)) thinning_ += 1 + thinning_ / 32;
    for (sum = measure(); sum > memory_.symbols && thinning_ < kMostThinning; sum = measure()) thinning_ += 1 + thinning_ / 32;
  }

  UnitWords words;
  for (Id id = 0; id < alphabet.size(); ++id) words.alphabet.push_back(utf8(alphabet.code_point(id)));
  words.units.resize(sum);
  std::size_t begin = 0;  // sizes become places
  const auto open_segment = [&](std::int64_t weight, std::size_t& size) {
    if (size > 0) words.segments.push_back({begin, weight});
    begin += std::exchange(size, begin);
  };
  for (auto& [weight, size] : many) open_segment(weight, size);
  for (std::int64_t weight = kFew - 1; weight > 0; --weight) open_segment(weight, few[static_cast<std::size_t>(weight)]);
  each([&](std::string_view piece, std::int64_t count) {
    const std::int64_t weight = weight_of(piece, count);
    if (weight == 0) return;
    std::size_t& place = of_weight(weight);
    for (std::size_t position = 0; position < piece.size();) {
      const Unit unit = decode_unit(piece, position);
      words.units[place++] = alphabet.known_id(unit.code_point);
      position += unit.size;
    }
    words.units[place++] = UnitWords::kWordEnd;
  });
  census_->bigrams().each([&](Id left, Id right, std::int64_t count) {
    if (count >= floor_) words.candidates.emplace_back(left, right);
  });
  table_ = WordTable();
  kept_ = JointSet();
  census_.reset();
  return words;
}

}  // namespace hanlin
