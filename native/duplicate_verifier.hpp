// Decides which documents go: those with an earlier duplicate that stays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "minhash.hpp"

namespace hanlin {

struct DuplicatePair {
  std::uint32_t document, keeper;
  float similarity;  // Jaccard, of their sets of shingles
};

class DuplicateVerifier {
 public:
  // Two documents are duplicates from `threshold` on. Throws as Shingler does.
  DuplicateVerifier(std::size_t shingle, double threshold) : shingler_(shingle), threshold_(threshold) {}

  // Has the set of a document at hand from now on, until all are let go.
  void add(std::uint32_t document, std::string_view text);
  void clear();
  bool has(std::uint32_t document) const { return sets_.contains(document); }
  std::size_t bytes() const { return bytes_; }

  // Decides ascending pairs (later document << 32 | earlier one) from `begin` on, up to the first for which a set is missing, and returns
  // its place. stays[d] is what is known so far; where a document goes it becomes 0, and the pair is appended.
  // Throws std::invalid_argument for a document past the end of `stays`.
  std::size_t decide(std::span<const std::uint64_t> pairs, std::size_t begin, std::span<std::uint8_t> stays, std::vector<DuplicatePair>& duplicates) const;

 private:
  Shingler shingler_;
  double threshold_;
  std::unordered_map<std::uint32_t, std::vector<std::uint64_t>> sets_;
  std::size_t bytes_ = 0;
  std::vector<std::uint64_t> found_;
  HashSorting scratch_;
};

}  // namespace hanlin
