// Passages that texts share with the items of benchmarks: every run of n characters of an item is known by its hash.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "text_batch.hpp"

namespace hanlin {

// What a text and an item have in common.
struct Overlap {
  std::uint32_t text, item;
  std::uint32_t hits;            // different runs of n characters that they share, that do not overlap one another in the text, and that
                                 // begin there within twice the length of the item
  std::uint32_t longest;         // characters of the longest passage: every run of n in it is one of the item's
  std::uint64_t begin, end;      // where that lies in the text, in bytes
};

class OverlapFinder {
 public:
  explicit OverlapFinder(std::size_t n);

  // Makes a text the next item. One of fewer than n characters has no run and is never found; whether it has one.
  bool add(std::string_view item);

  // The first item of each text that shares `hits` runs with it, or a passage of `longest` characters, or holds all of the item; with
  // `every`, all such items, and no run is passed over because many items have it.
  std::vector<Overlap> find(const TextBatch& texts, std::uint32_t hits, std::uint32_t longest, bool every = false);

  std::size_t items() const { return lengths_.size(); }

 private:
  struct Gram {
    std::uint64_t hash;
    std::uint32_t item;
  };

  void index();
  template <typename Visit>
  std::size_t each_gram(std::string_view text, Visit&& visit) const;

  std::size_t n_;
  std::uint64_t leaves_;  // weight of the character that leaves the window
  std::vector<std::uint32_t> lengths_;  // characters of each item
  std::vector<Gram> grams_;             // sorted by hash once `indexed_`
  std::vector<std::uint32_t> slots_;    // first gram of a hash, by the hash
  std::vector<std::uint64_t> seen_;     // a bit for each low part of a hash: most windows end here
  bool indexed_ = false;
};

}  // namespace hanlin
