// Counts the pieces of pre-tokens, cut at rare bigrams: all that aligned training needs to know of a corpus, in memory that grows far
// slower than the corpus, because pieces are short and repeat where clauses do not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "census.hpp"
#include "counter.hpp"
#include "learner.hpp"

namespace hanlin {

class PieceCounter {
 public:
  // `census`: of all the text that will be added, and not changed any more. Bigrams that occur fewer than `floor` times are cut.
  PieceCounter(std::shared_ptr<const Census> census, std::int64_t floor);

  // Counts the pieces of a text, or of one pre-token. Throws std::invalid_argument where the census has not seen a character.
  void add(std::string_view text);
  void add_word(std::string_view word, std::int64_t count);
  void merge(const PieceCounter& other);  // of the same census and floor

  // The pieces over the alphabet's ids. They are given away, to have less in memory while they are learnt from.
  UnitWords take_words();

  const Census& census() const { return *census_; }
  std::int64_t floor() const { return floor_; }
  std::size_t distinct() const { return table_.size(); }
  std::uint64_t bytes() const { return bytes_; }

 private:
  template <typename Close>
  void cut(std::string_view word, Close&& close) const;

  std::shared_ptr<const Census> census_;
  std::int64_t floor_;
  WordTable table_;
  std::uint64_t bytes_ = 0;  // of text seen
};

}  // namespace hanlin
