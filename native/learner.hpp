// Learns byte-pair merges, one at a time, on a fixed set of weighted words: the heart of the trainer.
//
// State: every word is a sequence of tokens. A pair's count is the number of places where its two tokens are neighbours, each
// weighted by its word's count. merge() replaces the candidate, in every word from left to right, by one new token.
//
// Memory is flat. All words lie behind one another in `units_`, one entry per unit (a byte, or a character); a token that spans
// several units has its id at its first and at its last one, so both neighbours are found without links. The entries are `Symbol`s: 16 bits
// where all ids fit, which halves what must be fetched and held. Words are sorted by count, so the weight of a place is found among a
// few thousand segments. A pair remembers the places where it was born; a place that has changed since is recognised when it is
// visited, and skipped. Where there are very many places, those of rarer pairs of units are only listed when the first such pair is to
// be merged: by then most of them have gone.
//
// Two merges never spell the same token. A stretch of a word whose ends no merge has crossed is cut exactly as it would be
// as a word of its own; so once (A, B) has made AB, every such stretch that reads AB is one token, and none is left for (C, D). Hence
// a pair containing a token is born in the merge that makes the token, and its count can only fall from then on.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "large.hpp"
#include "pair_table.hpp"

namespace hanlin {

using Id = std::uint32_t;

// Words of one count.
struct Segment {
  std::size_t begin;  // index into units where they begin
  std::int64_t count;
};

// Words as sequences of units, the most frequent first.
template <typename Symbol>
struct UnitWords {
  std::vector<std::string> alphabet;  // what each unit id spells
  LargeVector<Symbol> units;          // all words, each followed by kWordEnd
  std::vector<Segment> segments;
  std::vector<std::pair<Id, Id>> candidates;  // the pairs of units that may be frequent enough to be merged; all, if there are none

  static constexpr Symbol kWordEnd = std::numeric_limits<Symbol>::max();
  void begin_word(std::int64_t count) {
    if (segments.empty() || segments.back().count != count) segments.push_back({units.size(), count});
  }
  void end_word() { units.push_back(kWordEnd); }
};

// Whether so many ids, and two marks, fit into 16 bits.
inline bool are_narrow(std::size_t ids) { return ids <= 0xFFFE; }

struct LearnerLimits {
  std::int64_t min_count = 2;         // pairs that occur less often are never merged, nor remembered
  std::size_t max_characters = 0;     // of a token; 0: no limit
  std::function<void()> pause = {};   // called now and then, by the caller's thread, while pairs are counted; may throw to stop
  std::size_t threads = 1;            // to count pairs with
  std::size_t places_at_once = std::size_t{1} << 26;  // that are listed; tidied when twice as many are held
};

// The count of the word that a place lies in.
class Weights {
 public:
  Weights() = default;
  Weights(std::vector<Segment> segments, std::size_t places);

  std::int64_t at(std::size_t place) const {
    const std::uint32_t *first = &near_[place >> kBits], *last = first + 1;
    return *first == *last ? segments_[*first].count : segments_[search(place, *first, *last)].count;
  }
  std::size_t segment_of(std::size_t place) const { return search(place, near_[place >> kBits], near_[(place >> kBits) + 1]); }
  const std::vector<Segment>& segments() const { return segments_; }
  std::vector<Segment> take() { return std::move(segments_); }

 private:
  static constexpr unsigned kBits = 12;
  std::size_t search(std::size_t place, std::size_t first, std::size_t last) const;

  std::vector<Segment> segments_;
  std::vector<std::uint32_t> near_;  // the segment of every 4096th place
};

template <typename Symbol>
class Learner {
 public:
  struct Candidate {
    Id left, right;
    std::int64_t count;
  };

  // Throws std::length_error if there are 2^32 units or more, or more ids than there are symbols; merge() does so, too.
  Learner(UnitWords<Symbol> words, LearnerLimits limits);
  Learner(const Learner&) = delete;
  Learner& operator=(const Learner&) = delete;

  // The pair to merge next: the highest count, then the smaller left token by its bytes, then the smaller right one.
  // False when no pair is left.
  bool peek(Candidate& candidate);

  // Merges what peek() found.
  void merge();

  // The words as they were given, but for the candidates. Nothing can be merged any more.
  UnitWords<Symbol> take_words();

  std::string_view spelling(Id token) const { return tokens_[token].bytes; }

 private:
  static constexpr Symbol kWordEnd = UnitWords<Symbol>::kWordEnd;
  static constexpr Symbol kDead = kWordEnd - 1;  // inside a token, where neither of its ends is

  using Places = LargeVector<std::uint32_t>;
  struct Token {
    std::string bytes;
    std::uint32_t units;       // of the words' units
    std::uint32_t characters;  // bytes that are no UTF-8 continuation
    Id left, right;            // that it was merged from, if it was
  };
  struct Pair {
    Id left, right;
    std::int64_t count;
    Places places;  // of the left token's first unit, ascending
    bool listed;    // whether they are there
  };
  struct Entry {  // of the queue; out of date where `count` is not the pair's
    std::int64_t count;
    std::uint32_t pair;
  };
  struct Later {
    const Learner* learner;
    bool operator()(const Entry& a, const Entry& b) const;
  };
  // What the neighbours on one side of the merged pair amount to.
  struct Side {
    struct Event {
      Id neighbour;
      std::uint32_t place;  // of the new pair's left token
    };
    struct Sum {
      std::int64_t count = 0;
      std::uint32_t places = 0;
      std::uint32_t pair = 0;  // the new pair, while its places are filled in
    };
    LargeVector<Event> events;
    std::vector<Sum> sums;     // by neighbour
    std::vector<Id> present;   // neighbours with a sum
  };

  // What a thread finds of the pairs of units, by their index.
  struct Sum {
    std::int64_t count = 0;
    std::uint32_t places = 0;
  };
  using Sums = std::vector<Sum>;

  void count_all(std::vector<std::pair<Id, Id>> candidates);
  std::vector<std::pair<Id, Id>> all_pairs() const;
  template <typename Visit>
  void each_pair(std::size_t part, const std::atomic<bool>& stop, const Visit& visit) const;
  std::vector<Sums> count_pairs(LargeVector<std::uint32_t>& found) const;
  void list_places(const std::vector<Sums>& sums, const LargeVector<std::uint32_t>& found);
  Id new_token(Id left, Id right);
  void replace(const Places& places, Id left, Id right, Id token);
  static void note(Side& side, Id neighbour, std::uint32_t place, std::int64_t count);
  static void clear(Side& side);
  void tidy();
  void bury(const Side& side, Id token, Id part, bool on_left);
  void give_birth(Side& side, Id token, bool on_left);
  std::uint32_t add_pair(Id left, Id right, std::int64_t count, std::size_t places);

  LargeVector<Symbol> units_;
  Weights weights_;
  LearnerLimits limits_;
  std::size_t alphabet_;  // tokens that are units
  std::vector<Token> tokens_;
  std::vector<Pair> pairs_;
  PairTable table_;  // (left, right) → index into pairs_
  std::priority_queue<Entry, std::vector<Entry>, Later> queue_;
  PairIndex index_;                      // of the pairs of units
  std::vector<std::uint32_t> unlisted_;  // by index, those whose places are not listed yet, as indices into pairs_; kMissing otherwise
  std::size_t held_ = 0;                 // places in all lists
  std::size_t untidy_;                   // the lists are tidied when more are held
  Side left_, right_;
};

extern template class Learner<std::uint16_t>;
extern template class Learner<std::uint32_t>;

}  // namespace hanlin
