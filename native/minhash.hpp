// What a text is recognised by: a 128-bit digest, hashes of its shingles (every run of so many characters), and its MinHash signature.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace hanlin {

// Two multiplicative hashes that share nothing but the bytes. Of n different texts, two have the same digest with
// chance n^2 / 2^129. Not for use against somebody who wants a collision.
struct Digest {
  std::uint64_t first, second;
};
Digest digest_of(std::string_view bytes);

// Hashes of the shingles of a text, in order; of a text shorter than a shingle, one: that of the text as if zeros followed.
//
// The hash of characters c is a polynomial in a fixed odd number, sum of c[j] * p^(n-1-j) mod 2^64, rolled on by two multiplications,
// and finished by the bijection of MurmurHash3 (Appleby), whose every output bit hangs on every input bit.
class Shingler {
 public:
  // Throws std::invalid_argument unless size is 1 to 256 characters.
  explicit Shingler(std::size_t size);

  // Replaces `hashes`; bytes that are not UTF-8 count as a character each.
  void operator()(std::string_view text, std::vector<std::uint64_t>& hashes) const;

 private:
  std::size_t size_;
  std::uint64_t leaving_ = 1;  // p^size
};

// Minima of hashes x -> a x + b mod 2^32, a odd, over the upper 32 bits of the shingles' hashes.
//
// Such a function is a bijection, so over a set of values spread evenly, as the finished hashes are, every member is as likely as
// another to have the least image: the share of equal minima of two sets estimates their Jaccard similarity J without bias, with
// variance J (1 - J) / values. Two shingles of one text agree in 32 bits with chance 2^-32: a set of a million loses a hundred of them.
class MinHasher {
 public:
  // As many values as asked for, from `seed`. Throws std::invalid_argument if none.
  MinHasher(std::size_t shingle, std::size_t values, std::uint64_t seed);

  struct Scratch {
    std::vector<std::uint64_t> hashes;
    std::vector<std::uint32_t> folded;
  };

  std::size_t values() const { return a_.size(); }
  void sign(std::string_view text, std::uint32_t* signature, Scratch& scratch) const;

 private:
  Shingler shingler_;
  std::vector<std::uint32_t> a_, b_;
};

struct HashSorting {
  std::vector<std::uint32_t> ends;
  std::vector<std::uint64_t> sorted;
};

// Sorts values that are spread evenly: by their upper bits into about as many buckets as there are values, then each bucket.
void sort_hashes(std::vector<std::uint64_t>& hashes, HashSorting& scratch);

// The set of a text's shingles: their hashes, sorted, each once.
void shingle_set(const Shingler& shingler, std::string_view text, std::vector<std::uint64_t>& set, HashSorting& scratch);

// Similarity of two such sets, |both| / |either|; of two empty ones, 0.
double jaccard(const std::vector<std::uint64_t>& left, const std::vector<std::uint64_t>& right);

}  // namespace hanlin
