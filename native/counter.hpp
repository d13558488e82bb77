// Counts pre-tokens: the only thing the trainer needs to know of a corpus, whatever the order it was read in.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hanlin {

// A distinct sequence of bytes and how often it occurs.
struct Word {
  std::string_view bytes;
  std::int64_t count;
};

std::uint64_t hash_bytes(std::string_view bytes);

class PretokenCounter {
 public:
  // Cuts `text` into pre-tokens and counts each. Throws std::overflow_error past 2^62 bytes.
  void add(std::string_view text);
  void add_word(std::string_view word, std::int64_t count);
  void merge(const PretokenCounter& other);

  // Distinct words, the most frequent first, equals by their bytes: the same for every order of reading.
  // The views live as long as the counter is not changed.
  std::vector<Word> words() const;

  std::size_t distinct() const { return entries_.size(); }
  std::int64_t total() const { return total_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::size_t offset, size;
    std::int64_t count;
  };
  struct Slot {
    std::uint64_t hash;
    std::size_t entry;  // kEmpty, or an index into entries_
  };

  void grow();

  std::string arena_;  // the distinct words' bytes, one after the other
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;  // open addressing, a power of two
  std::int64_t total_ = 0;
  std::int64_t weight_ = 0;  // bytes of all words, each as often as it occurs: no pair of tokens can occur more often
  std::uint64_t bytes_ = 0;  // of text seen
};

}  // namespace hanlin
