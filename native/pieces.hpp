// Counts the pieces of pre-tokens, cut at rare bigrams: all that aligned training needs to know of a corpus, in memory that grows far
// slower than the corpus, because pieces are short and repeat where clauses do not.
//
// Within a given memory: when the table of pieces is full it goes to disk as a sorted run, and the runs are merged at the end, so counts
// stay exact. Should even the distinct pieces be too many to learn from, rare ones are thinned: of those that occur c < w times a share of
// c/w is kept, chosen by their hash, as if they occurred w times. The expected count of every pair of tokens stays what it was, the
// deviation of a count n is at most sqrt(w·n) for a pair that no piece holds twice (sqrt(k·w·n) for one held k times), and the choice
// depends on the pieces alone. Rare pieces hold much of a Chinese corpus:
// dropping them, as "min_frequency" on words does, costs a tenth of the compression.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bigram_bloom_filter.hpp"
#include "bigram_counts.hpp"
#include "counter.hpp"
#include "external_sort.hpp"
#include "learner.hpp"

namespace hanlin {

struct PieceMemory {
  std::size_t table = 0;   // bytes of the table of pieces, 0: no limit
  std::size_t symbols = 0; // characters, and ends, of distinct pieces to learn from, 0: no limit
  std::string folder;      // for runs
};

class PieceCounter {
 public:
  // `bigram_counts`: of all the text that will be added, and not changed any more. Bigrams that occur fewer than `floor` times are cut.
  PieceCounter(std::shared_ptr<const BigramCounts> bigram_counts, std::int64_t floor, PieceMemory memory = {});

  // Counts the pieces of a text, or of one pre-token. Throws std::invalid_argument where a character was not counted,
  // std::runtime_error where a run cannot be written.
  void add(std::string_view text);
  void add_word(std::string_view word, std::int64_t count);
  void merge(PieceCounter& other);  // of the same bigram counts and floor; takes its pieces

  // Writes what it holds to disk; the runs it has then, for adopt() in another process.
  const std::vector<std::string>& save();
  void adopt(std::string run) { external_sort_.adopt(std::move(run)); }

  // The pieces over the alphabet's ids, thinned if they are too many. They are given away, and the bigram counts with them, to have less in
  // memory while they are learnt from: nothing can be added afterwards. `pause` is called now and then by the caller's thread, and may
  // throw to stop; then the pieces are still there.
  template <typename Symbol>
  UnitWords<Symbol> take_words(std::size_t threads = 1, const std::function<void()>& pause = {});

  const BigramCounts& bigram_counts() const {
    require_census();
    return *bigram_counts_;
  }
  std::int64_t floor() const { return floor_; }
  std::uint64_t bytes() const { return bytes_; }
  std::size_t distinct() const { return distinct_; }     // once taken: pieces that were counted
  std::int64_t thinning() const { return thinning_; }    // once taken: w, 1 if none

 private:
  template <typename Close>
  void cut(std::string_view word, Close&& close) const;
  void require_census() const;
  void spill_if_full();
  void fold(std::size_t threads);
  template <typename Visit>
  void each(std::size_t part, std::size_t parts, const std::atomic<bool>& stop, const std::function<void()>& pause, Visit&& visit) const;
  std::int64_t weight_of(std::string_view piece, std::int64_t count) const;

  std::shared_ptr<const BigramCounts> bigram_counts_;
  std::vector<std::pair<Id, Id>> candidates_;  // bigrams at or above the floor
  BigramBloomFilter kept_;  // the same; where it wrongly says yes, a cut is not made that could have been
  std::int64_t floor_;
  PieceMemory memory_;
  std::vector<WordTable> tables_{1};  // the first is counted in, the others come from other counters
  ExternalSort external_sort_;
  std::uint64_t bytes_ = 0;  // of text seen
  std::size_t distinct_ = 0;
  std::int64_t thinning_ = 1;
};

}  // namespace hanlin
