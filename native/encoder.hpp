// Text to token ids and back: byte-pair encoding by rank.
//
// Within a pre-token, the neighbouring pair whose merge was learnt first is merged, the leftmost where there are several, until no
// neighbours can be merged. This defines the result; how it is reached here differs only in speed:
// short pieces by scanning an array of ranks, long ones rank by rank, so that 10 MB of one character take no longer
// than other text. A vocabulary whose merges never mix pieces of characters with other characters starts from whole characters, and cuts a
// pre-token wherever no token holds the two characters side by side: what is left is mostly one or two characters, or a token. Pieces
// wait until a few hundred of them can be looked up together, because the tables are larger than the fast caches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bigram_bloom_filter.hpp"
#include "large.hpp"
#include "prefetch.hpp"
#include "unicode.hpp"

namespace hanlin {

using Id = std::uint32_t;

// Merges by their pair: one 64-bit word per slot holds left (21 bits), right (21 bits) and rank (22 bits).
class MergeTable {
 public:
  static constexpr std::uint32_t kNoRank = (1u << 22) - 1;
  static constexpr std::size_t kMaxTokens = (std::size_t{1} << 21) - 1;

  void reserve(std::size_t merges);
  void insert(Id left, Id right, std::uint32_t rank);  // an earlier rank of the same pair stays

  void prefetch(Id left, Id right) const { hanlin::prefetch(&slots_[home(key_of(left, right))]); }

  std::uint32_t rank(Id left, Id right) const {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t slot = home(key);; slot = (slot + 1) & mask_) {
      const std::uint64_t value = slots_[slot];
      if (value >> 22 == key) return static_cast<std::uint32_t>(value & kNoRank);
      if (value == kFree) return kNoRank;
    }
  }

 private:
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  static std::uint64_t key_of(Id left, Id right) { return std::uint64_t{left} << 21 | right; }
  std::size_t home(std::uint64_t key) const { return static_cast<std::size_t>((key * 0x9E3779B97F4A7C15ull) >> shift_) & mask_; }

  std::vector<std::uint64_t> slots_;
  std::size_t mask_ = 0;
  unsigned shift_ = 63;
};

struct Merge {
  Id left, right, result;
};

using Ids = LargeVector<Id>;

class Encoder {
 public:
  // A stretch of text that no merge crosses, as the tokens it starts from.
  struct Piece {
    std::size_t begin;   // in Scratch::parts
    std::size_t size;    // in parts
    std::uint64_t hash;  // of the parts, if there are three or more
    Id word;             // that it is as a whole, if it is one
    bool has_strays;     // bytes that are no character: such a piece is not looked up
  };
  // Working memory of one thread: the pieces that wait, and lists of the merging.
  struct Scratch {
    std::vector<Id> parts;
    std::vector<Piece> pieces;
    std::vector<std::uint32_t> ranks;
    std::vector<std::uint32_t> previous, next;
  };

  // `tokens[id]` is what an id spells; the first `ordinary` of them come from the merges, the rest (control tokens) are only ever decoded.
  // Throws std::invalid_argument if a byte has no token, a merge does not spell its result, or the sizes pass the tables' limits.
  Encoder(std::vector<std::string> tokens, std::size_t ordinary, std::vector<Merge> merges);

  // Appends the ids of `text`, any bytes at all. Throws std::length_error if a single pre-token has 2^32 bytes or more.
  void encode(std::string_view text, Ids& ids, Scratch& scratch) const;

  // Appends the bytes of one token; false if there is no such id.
  bool decode(Id id, std::string& bytes) const;

  bool aligned() const { return aligned_; }
  std::size_t size() const { return tokens_.size(); }
  std::size_t ordinary() const { return ordinary_; }
  std::string_view spelling(Id id) const { return tokens_[id]; }

 private:
  struct WordSlot {
    std::uint64_t hash;
    std::uint32_t begin;        // of its parts in word_parts_
    std::uint32_t id_and_size;  // 21 bits and 11, kNoWord where there is none

    Id id() const { return id_and_size >> kSizeBits; }
    std::size_t size() const { return id_and_size & ((1u << kSizeBits) - 1); }
  };
  static constexpr unsigned kSizeBits = 11;
  static constexpr std::uint32_t kNoWord = 0xFFFFFFFF;

  void check(const std::vector<Merge>& merges) const;
  bool is_aligned(const std::vector<Merge>& merges) const;
  void index_characters();
  void index_words();
  void index_joints();
  void cut(std::string_view word, Scratch& scratch) const;
  void close(Scratch& scratch) const;
  void finish(Ids& ids, Scratch& scratch) const;
  Id find_word(const Piece& piece, const Id* parts) const;
  void append_merged(const Piece& piece, Ids& ids, Scratch& scratch) const;
  std::size_t merge_short(Id* parts, std::size_t size) const;
  std::size_t merge_long(Id* parts, std::size_t size, Scratch& scratch) const;
  Id result_of(std::uint32_t rank) const { return consecutive_ ? first_result_ + rank : results_[rank]; }

  std::vector<std::string> tokens_;
  std::size_t ordinary_;
  std::vector<Id> results_;   // of merges, by rank
  bool consecutive_ = true;   // whether each is one more than the one before, as the trainer has it: then nothing is looked up
  Id first_result_ = 0;
  MergeTable table_;
  Id byte_ids_[256];
  bool aligned_ = false;
  std::vector<Id> char_ids_;  // by code point below 0x10000, kNoToken where the character is several tokens; only if aligned
  BigramBloomFilter joints_;  // characters that stand side by side in a token; only if aligned
  std::vector<WordSlot> words_;  // tokens of three parts or more that encode to themselves, by their parts
  std::vector<Id> word_parts_;   // of all of them, one behind the other
  std::size_t longest_word_ = 0;
};

}  // namespace hanlin
