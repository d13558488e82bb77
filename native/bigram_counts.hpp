// Counts of a corpus' characters and bigrams: how often each character occurs, and how often each two characters follow one another within a pre-token.
// They tell where a pre-token can be cut without any merge noticing.
//
// Why pre-tokens may be cut. Aligned merges join whole characters. A merge that spans the boundary between two characters a and b
// occurs at most as often as the bigram ab; so no merge that occurs `floor` times or more ever spans a bigram that occurs less often,
// and cutting there changes the count of no pair of tokens that could be merged, down to a count of `floor`.
//
// The 2,048 characters seen first are the frequent ones of any language, and their bigrams lie in a square table; those of the first 65,536
// share a hash table of eight bytes a slot; the few that are left, and what does not fit 32 bits, are in an ordinary map.
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
      if (++cell == kFull) carry(cell, key_of(left, right));
    } else {
      add_slowly(left, right, count);
    }
  }

  // The count of the bigram of the given rank, 0 for the most frequent; 0 if there are not as many.
  std::int64_t count_at_rank(std::size_t rank) const;

  // Calls visit(left, right, count) for every bigram.
  template <typename Visit>
  void each(Visit&& visit) const;

 private:
  static constexpr unsigned kSquareBits = 11;
  static constexpr Id kSquare = 1u << kSquareBits;
  static constexpr std::uint32_t kFull = 0xFFFFFFFF;
  static constexpr Id kCompact = 1u << 16;

  struct Slot {
    std::uint32_t key = 0;    // left and right, 16 bits each
    std::uint32_t count = 0;  // 0: free
  };
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };

  static std::uint64_t key_of(Id left, Id right) { return std::uint64_t{left} << 32 | right; }
  std::size_t locate(std::uint32_t key) const;
  void add_slowly(Id left, Id right, std::int64_t count);
  void add_to(std::uint32_t& cell, std::uint64_t key, std::int64_t count);
  void carry(std::uint32_t& cell, std::uint64_t key);
  std::int64_t in_map(std::uint64_t key) const;
  void grow();

  std::unique_ptr<std::uint32_t, Free> square_;
  std::unordered_map<std::uint64_t, std::int64_t> map_;  // bigrams of late characters, and what did not fit 32 bits of the others
  std::vector<Slot> slots_;                                  // open addressing, a power of two
  std::size_t used_ = 0;
};

template <typename Visit>
void BigramTable::each(Visit&& visit) const {
  for (Id left = 0; left < kSquare; ++left) {
    for (Id right = 0; right < kSquare; ++right) {
      const std::uint32_t cell = square_.get()[left << kSquareBits | right];
      if (cell != 0) visit(left, right, cell + in_map(key_of(left, right)));
    }
  }
  for (const Slot& slot : slots_) {
    const Id left = slot.key >> 16, right = slot.key & (kCompact - 1);
    if (slot.count != 0) visit(left, right, slot.count + in_map(key_of(left, right)));
  }
  for (const auto& [key, count] : map_) {
    const auto left = static_cast<Id>(key >> 32), right = static_cast<Id>(key);
    if ((left | right) >= kCompact) visit(left, right, count);
  }
}

class BigramCounts {
 public:
  // Cuts `text` into pre-tokens and counts their characters and bigrams. Throws std::overflow_error past 2^62 bytes.
  void add(std::string_view text);
  void add_word(std::string_view word, std::int64_t count);  // one pre-token
  void merge(const BigramCounts& other);

  // To a file and back. Throw std::runtime_error, with the system's reason, where that is not possible.
  void save(const std::string& path) const;
  static std::unique_ptr<BigramCounts> load(const std::string& path);

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

}  // namespace hanlin
