// The census of a corpus: how often each character occurs, and how often each two characters follow one another within a pre-token.
// It tells where a pre-token can be cut without any merge noticing.
//
// Why pre-tokens may be cut. Aligned merges join whole characters. A merge that spans the boundary between two characters a and b
// occurs at most as often as the bigram ab; so no merge that occurs `floor` times or more ever spans a bigram that occurs less often,
// and cutting there changes the count of no pair of tokens that could be merged, down to a count of `floor`.
//
// The 2,048 characters seen first are the frequent ones of any language, and their bigrams lie in a square table; the others share a hash
// table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "unicode.hpp"

namespace hanlin {

using Id = std::uint32_t;

// Code points and dense ids, given in order of first appearance.
class Alphabet {
 public:
  Id id_of(std::uint32_t code_point) {
    Id& next = ids_.get()[code_point];
    if (next == 0) {
      points_.push_back(code_point);
      next = static_cast<Id>(points_.size());
    }
    return next - 1;
  }
  bool knows(std::uint32_t code_point) const { return ids_.get()[code_point] != 0; }
  Id known_id(std::uint32_t code_point) const { return ids_.get()[code_point] - 1; }  // of a character it knows
  std::uint32_t code_point(Id id) const { return points_[id]; }
  std::size_t size() const { return points_.size(); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  static Id* zeros();

  std::unique_ptr<Id, Free> ids_{zeros()};  // one more than the id, 0 where there is none
  std::vector<std::uint32_t> points_;
};

class BigramTable {
 public:
  BigramTable();

  void add(Id left, Id right, std::int64_t count) {
    if ((left | right) < kSquare && count == 1) {
      std::uint32_t& cell = square_.get()[left << kSquareBits | right];
      if (++cell == kFull) carry(cell, left, right);
    } else {
      add_slowly(left, right, count);
    }
  }

  std::int64_t count(Id left, Id right) const;

  // The count of the bigram of the given rank, 0 for the most frequent; 0 if there are not as many.
  std::int64_t count_at_rank(std::size_t rank) const;

  // Calls visit(left, right, count) for every bigram.
  template <typename Visit>
  void each(Visit&& visit) const;

  std::size_t bytes() const { return slots_.size() * sizeof(Slot) + std::size_t{kSquare} * kSquare * sizeof(std::uint32_t); }

 private:
  static constexpr unsigned kSquareBits = 11;
  static constexpr Id kSquare = 1u << kSquareBits;
  static constexpr std::uint32_t kFull = 0xFFFFFFFF;
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};

  struct Slot {
    std::uint64_t key = kFree;
    std::int64_t count = 0;
  };
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  static std::uint64_t key_of(Id left, Id right) { return std::uint64_t{left} << 32 | right; }
  std::size_t locate(std::uint64_t key) const;
  void add_slowly(Id left, Id right, std::int64_t count);
  void carry(std::uint32_t& cell, Id left, Id right);
  std::int64_t carried(Id left, Id right) const;
  void grow();

  std::unique_ptr<std::uint32_t, Free> square_;
  std::unordered_map<std::uint64_t, std::int64_t> carried_;  // what did not fit the square's 32 bits
  std::vector<Slot> slots_;                                  // open addressing, a power of two
  std::size_t used_ = 0;
};

template <typename Visit>
void BigramTable::each(Visit&& visit) const {
  for (Id left = 0; left < kSquare; ++left) {
    for (Id right = 0; right < kSquare; ++right) {
      const std::uint32_t cell = square_.get()[left << kSquareBits | right];
      if (cell != 0) visit(left, right, cell + carried(left, right));
    }
  }
  for (const Slot& slot : slots_) {
    if (slot.key != kFree) visit(static_cast<Id>(slot.key >> 32), static_cast<Id>(slot.key), slot.count);
  }
}

class Census {
 public:
  // Cuts `text` into pre-tokens and counts their characters and bigrams. Throws std::overflow_error past 2^62 bytes.
  void add(std::string_view text);
  void add_word(std::string_view word, std::int64_t count);  // one pre-token
  void merge(const Census& other);

  // The highest floor at which `bigrams` of them are left or more.
  std::int64_t floor_that_leaves(std::size_t bigrams) const;

  const Alphabet& alphabet() const { return alphabet_; }
  const BigramTable& bigrams() const { return bigrams_; }
  std::uint64_t bytes() const { return bytes_; }  // of text seen

  // Every character and how often it occurs, the most frequent first.
  struct Character {
    std::string bytes;
    std::int64_t count;
  };
  std::vector<Character> characters() const;

 private:
  void count(std::string_view word, std::int64_t times);

  Alphabet alphabet_;
  std::vector<std::int64_t> counts_;  // of characters, by id
  BigramTable bigrams_;
  std::uint64_t bytes_ = 0;
  std::int64_t weight_ = 0;  // characters, each as often as it occurs
};

std::string utf8(std::uint32_t code_point);

}  // namespace hanlin
