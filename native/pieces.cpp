#include "pieces.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "layout.hpp"
#include "parallel.hpp"
#include "scanner.hpp"

namespace hanlin {

namespace {

constexpr std::int64_t kMostThinning = 1 << 20;
constexpr std::int64_t kMaxWeight = std::int64_t{1} << 62;
constexpr std::size_t kPause = std::size_t{1} << 18;  // pieces between two pauses

std::size_t characters_of(std::string_view piece) {
  return static_cast<std::size_t>(
      std::count_if(piece.begin(), piece.end(), [](char byte) { return !is_continuation(static_cast<unsigned char>(byte)); }));
}

}  // namespace

PieceCounter::PieceCounter(std::shared_ptr<const BigramCounts> bigram_counts, std::int64_t floor, PieceMemory memory)
    : bigram_counts_(std::move(bigram_counts)), floor_(floor), memory_(std::move(memory)), external_sort_(memory_.folder) {
  bigram_counts_->bigrams().each([&](Id left, Id right, std::int64_t count) {
    if (count >= floor_) candidates_.emplace_back(left, right);
  });
  kept_ = BigramBloomFilter(candidates_.size());
  const Alphabet& alphabet = bigram_counts_->alphabet();
  for (const auto& [left, right] : candidates_) kept_.add(alphabet.code_point(left), alphabet.code_point(right));
}

// Calls close(piece) for every piece of two characters or more: single ones hold no pair, and the bigram counts hold them.
template <typename Close>
void PieceCounter::cut(std::string_view word, Close&& close) const {
  const Alphabet& alphabet = bigram_counts_->alphabet();
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
    if (!alphabet.knows(unit.code_point)) throw std::invalid_argument("text whose characters have not been counted");
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
  if (!bigram_counts_) throw std::invalid_argument("the pieces have been taken");
}

void PieceCounter::add(std::string_view text) {
  require_census();
  Scanner scanner(text);
  for (std::string_view word = scanner.next(); !word.empty(); word = scanner.next()) {
    cut(word, [&](std::string_view piece) { tables_[0].add_later(piece); });
  }
  tables_[0].flush();
  bytes_ += text.size();
  spill_if_full();
}

void PieceCounter::add_word(std::string_view word, std::int64_t count) {
  require_census();
  cut(word, [&](std::string_view piece) { tables_[0].add(piece, count); });
}

void PieceCounter::merge(PieceCounter& other) {
  if (this == &other || bigram_counts_ != other.bigram_counts_ || floor_ != other.floor_) throw std::invalid_argument("pieces cut by other bigram counts, or at another floor");
  std::int64_t left = kMaxWeight;
  for (const auto* tables : {&tables_, &other.tables_}) {
    for (const WordTable& table : *tables) {
      if (table.weight() > left) throw std::overflow_error("more than 2^62 bytes of words");
      left -= table.weight();
    }
  }
  for (WordTable& table : other.tables_) tables_.push_back(std::move(table));
  other.tables_ = std::vector<WordTable>(1);
  external_sort_.absorb(other.external_sort_);
  bytes_ += std::exchange(other.bytes_, 0);
}

void PieceCounter::spill_if_full() {
  if (memory_.table == 0 || tables_[0].memory() <= memory_.table) return;
  external_sort_.write(tables_[0]);
  tables_[0] = WordTable();
}

const std::vector<std::string>& PieceCounter::save() {
  require_census();
  for (WordTable& table : tables_) {
    if (table.size() > 0) external_sort_.write(table);
    table = WordTable();
  }
  return external_sort_.runs();
}

// Every piece is counted in one table only: in the others that have it, it counts for nothing. No table grows, so there is no memory to be
// touched first, and threads need not wait for one another.
void PieceCounter::fold(std::size_t threads) {
  if (!external_sort_.empty()) return;  // the runs and the tables are merged as they are read
  for (std::size_t from = 1; from < tables_.size(); ++from) {
    WordTable& table = tables_[from];
    for (std::size_t into = 0; into < from; ++into) {
      in_parallel(threads, [&](std::size_t part, const std::atomic<bool>&) {
        table.give_known(begin_of_part(table.size(), part, threads), begin_of_part(table.size(), part + 1, threads), tables_[into]);
      });
    }
  }
}

template <typename Visit>
void PieceCounter::each(std::size_t part, std::size_t parts, const std::atomic<bool>& stop, const std::function<void()>& pause, Visit&& visit) const {
  std::size_t seen = 0;
  const auto rest = [&] {
    if (seen++ % kPause == 0 && part == 0 && pause) pause();
  };
  if (!external_sort_.empty()) {
    return external_sort_.each(tables_, [&](std::string_view piece, std::int64_t count) {
      rest();
      visit(piece, count);
    });
  }
  for (const WordTable& table : tables_) {
    const std::size_t end = begin_of_part(table.size(), part + 1, parts);
    for (std::size_t index = begin_of_part(table.size(), part, parts); index < end && !stop; ++index) {
      rest();
      const Word piece = table[index];
      if (piece.count > 0) visit(piece.bytes, piece.count);
    }
  }
}

// What a piece counts for after thinning: its count, or w for the share count/w of the rarer ones, or nothing.
std::int64_t PieceCounter::weight_of(std::string_view piece, std::int64_t count) const {
  if (count >= thinning_) return count;
  const std::uint64_t draw = hash_bytes(piece) >> 32;  // uniform below 2^32; tables use the other half
  return draw * static_cast<std::uint64_t>(thinning_) < static_cast<std::uint64_t>(count) << 32 ? thinning_ : 0;
}

template <typename Symbol>
UnitWords<Symbol> PieceCounter::take_words(std::size_t threads, const std::function<void()>& pause) {
  require_census();
  threads = std::max<std::size_t>(threads, 1);
  fold(threads);
  std::vector<SizesByWeight> parts(external_sort_.empty() ? threads : 1);
  const auto measure = [&] {
    std::vector<std::size_t> sums(parts.size()), distinct(parts.size());
    in_parallel(parts.size(), [&](std::size_t part, const std::atomic<bool>& stop) {
      SizesByWeight sizes;
      std::size_t pieces = 0, sum = 0;
      each(part, parts.size(), stop, pause, [&](std::string_view piece, std::int64_t count) {
        ++pieces;
        const std::int64_t weight = weight_of(piece, count);
        if (weight == 0) return;
        const std::size_t size = characters_of(piece) + 1;
        sizes[weight] += size;
        sum += size;
      });
      parts[part] = std::move(sizes);
      sums[part] = sum;
      distinct[part] = pieces;
    });
    distinct_ = std::accumulate(distinct.begin(), distinct.end(), std::size_t{0});
    return std::accumulate(sums.begin(), sums.end(), std::size_t{0});
  };
  std::size_t sum = measure();
  if (memory_.symbols > 0 && sum > memory_.symbols) {
    // Of the pieces that occur c < w times the share c/w is expected to be left: the least w that should do, and a little more if need be.
    const auto expected = [&](std::int64_t thinning) {
      double kept = static_cast<double>(sum);
      for (std::int64_t count = 1; count < std::min(thinning, SizesByWeight::kFew); ++count) {
        std::size_t size = 0;
        for (SizesByWeight& sizes : parts) size += sizes[count];
        kept -= static_cast<double>(size) * (1 - static_cast<double>(count) / static_cast<double>(thinning));
      }
      return kept;
    };
    while (thinning_ < kMostThinning && expected(thinning_) > static_cast<double>(memory_.symbols)) thinning_ += 1 + thinning_ / 32;
    for (sum = measure(); sum > memory_.symbols && thinning_ < kMostThinning; sum = measure()) thinning_ += 1 + thinning_ / 32;
  }

  UnitWords<Symbol> words;
  const Alphabet& alphabet = bigram_counts_->alphabet();
  for (Id id = 0; id < alphabet.size(); ++id) words.alphabet.push_back(utf8(alphabet.code_point(id)));
  const auto weighed = [&](std::size_t part, const std::atomic<bool>& stop, const auto& visit) {
    each(part, parts.size(), stop, pause, [&](std::string_view piece, std::int64_t count) {
      const std::int64_t weight = weight_of(piece, count);
      if (weight > 0) visit(piece, weight);
    });
  };
  lay_out(words, parts, weighed, [&](std::string_view piece, Symbol* symbols) {
    for (std::size_t position = 0; position < piece.size();) {
      const Unit unit = decode_unit(piece, position);
      *symbols++ = static_cast<Symbol>(alphabet.known_id(unit.code_point));
      position += unit.size;
    }
    return symbols;
  });
  words.candidates = std::move(candidates_);
  tables_.clear();
  kept_ = BigramBloomFilter();
  bigram_counts_.reset();
  return words;
}

template UnitWords<std::uint16_t> PieceCounter::take_words(std::size_t, const std::function<void()>&);
template UnitWords<std::uint32_t> PieceCounter::take_words(std::size_t, const std::function<void()>&);

}  // namespace hanlin
