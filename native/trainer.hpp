// Byte-pair encoding learnt from counted pre-tokens: exact, and a function of the multiset of pre-tokens alone.
//
// At each step the pair with the highest count is merged. Among equal counts, a merge within a character goes before a merge between
// characters, then the smaller left token by its bytes, then the smaller right one.
//
// Aligned (the default): a token is a piece of one character, or one or more whole characters; never the tail of one glued to the
// head of the next. The merges within characters then depend on how often each character occurs and on nothing else, and those between
// characters on nothing below characters: two independent learners, each far smaller than one over bytes. Taking at every step the
// better of their two candidates is the same as learning over bytes with the forbidden merges left out, because a character that occurs
// n times is put together by merges of counts n or more, and a pair it takes part in occurs n times at most. Ties are why
// merges within characters go first.
//
// Bytes that are not valid UTF-8 cut a word in two for aligned training, and are like any other for plain training.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "counter.hpp"
#include "pieces.hpp"

namespace hanlin {

struct TrainOptions {
  std::size_t new_tokens = 0;      // to learn, beyond the 256 bytes
  std::int64_t min_frequency = 2;  // of a merge
  std::size_t max_characters = 0;  // of a token; 0: no limit
  bool aligned = true;
  std::size_t threads = 1;                            // neither on this
  std::size_t places_at_once = std::size_t{1} << 26;  // nor on this do the merges depend: see LearnerLimits
};

struct LearntMerge {
  std::string left, right;
  std::int64_t count;
};

// Called now and then with the number of tokens learnt; may throw to stop the training.
using TrainProgress = std::function<void(std::size_t)>;

// Merges in the order they were learnt; fewer than asked for if the words give no more. This is the plain definition that the two below
// are tested against.
std::vector<LearntMerge> train(const std::vector<Word>& words, const TrainOptions& options, const TrainProgress& progress = {});

// The same for training that is not aligned, in less memory. Takes the counter's words.
std::vector<LearntMerge> train_plain(PretokenCounter& counter, const TrainOptions& options, const TrainProgress& progress = {});

struct PieceTraining {
  std::vector<LearntMerge> merges;
  std::int64_t least;  // the count down to which merges were learnt
  bool complete;       // as many as asked for, or all there are; if not, count pieces with a lower floor
};

// The same merges as train(…) of the uncut pre-tokens, aligned. Takes the counter's pieces.
PieceTraining train_pieces(PieceCounter& counter, const TrainOptions& options, const TrainProgress& progress = {});

}  // namespace hanlin
