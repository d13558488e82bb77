// Counts distinct words: the only thing the trainer needs to know of a corpus, whatever the order it was read in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "large.hpp"

namespace hanlin {

// A distinct sequence of bytes and how often it occurs.
struct Word {
  std::string_view bytes;
  std::int64_t count;
};

std::uint64_t hash_bytes(std::string_view bytes);

// A table of words and their counts. Words lie behind one another in the order of their first appearance.
class WordTable {
 public:
  // Throws std::overflow_error past 2^62 bytes of words, each as often as it occurs, and std::length_error at 2^32 - 1 distinct ones.
  void add(std::string_view word, std::int64_t count);
  void add_all(const WordTable& other);

  // Of the words from index `first` to `last`, those that `other` has count there from now on, and here for nothing. Neither table
  // moves, so several threads may do this at once, each with other words of one and the same table.
  void give_known(std::size_t first, std::size_t last, WordTable& other);

  // As add(), by the next flush at the latest: a few dozen words are looked up together, so that the memory they lie in is
  // fetched at once. `word` must last until then.
  void add_later(std::string_view word, std::int64_t count = 1);
  void flush();

  std::size_t size() const { return entries_.size() - 1; }
  std::int64_t total() const { return total_; }
  std::int64_t weight() const { return weight_; }
  Word operator[](std::size_t index) const {
    const Entry &entry = entries_[index], &next = entries_[index + 1];
    return {{arena_.data() + entry.begin, static_cast<std::size_t>(next.begin - entry.begin)}, entry.count};
  }

  // Memory in use.
  std::size_t memory() const { return arena_.capacity() + entries_.capacity() * sizeof(Entry) + slots_.capacity() * sizeof(Slot); }

 private:
  struct Slot {
    std::uint32_t tag;    // of the hash: chooses the home, and tells most others apart
    std::uint32_t index;  // kEmpty, or of a word
  };
  struct Entry {
    std::uint64_t begin;  // in the arena; the next entry's is the end
    std::int64_t count;
  };
  struct Waiting {
    std::string_view word;
    std::int64_t count;
    std::uint32_t tag;
  };
  static constexpr std::uint32_t kEmpty = 0xFFFFFFFF;
  static constexpr std::size_t kBatch = 64;

  void weigh(std::size_t size, std::int64_t count);
  template <typename Items>
  void fetch(const Items& items) const;
  void count(std::string_view word, std::uint32_t tag, std::int64_t count);
  void grow();

  LargeVector<char> arena_;
  LargeVector<Entry> entries_{{0, 0}};  // one more than words
  LargeVector<Slot> slots_;  // open addressing, a power of two
  std::int64_t total_ = 0;   // words
  std::int64_t weight_ = 0;  // bytes of all words, each as often as it occurs: no pair of tokens can occur more often
  std::vector<Waiting> waiting_;
};

// Counts whole pre-tokens.
class PretokenCounter {
 public:
  // Cuts `text` into pre-tokens and counts each. Throws as WordTable does.
  void add(std::string_view text);
  void add_word(std::string_view word, std::int64_t count) { table_.add(word, count); }
  void merge(const PretokenCounter& other);

  // Distinct words, the most frequent first, equals by their bytes: the same for every order of reading.
  // The views live as long as the counter is not changed.
  std::vector<Word> words() const;

  // The same, but equals as they came: several times as fast.
  std::vector<Word> words_by_count() const;

  const WordTable& table() const { return table_; }
  WordTable take_table() { return std::exchange(table_, WordTable()); }
  std::size_t distinct() const { return table_.size(); }
  std::int64_t total() const { return table_.total(); }
  std::uint64_t bytes() const { return bytes_; }

 private:
  WordTable table_;
  std::uint64_t bytes_ = 0;  // of text seen
};

}  // namespace hanlin
