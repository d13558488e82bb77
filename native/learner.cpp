#include "learner.hpp"

#include <algorithm>
#include <stdexcept>

#include "unicode.hpp"

namespace hanlin {

namespace {

constexpr std::uint32_t kNone = PairTable::kMissing;
constexpr Id kDead = 0xFFFFFFFE;  // inside a token, where neither of its ends is

std::uint32_t count_characters(std::string_view bytes) {
  return static_cast<std::uint32_t>(
      std::count_if(bytes.begin(), bytes.end(), [](char byte) { return !is_continuation(static_cast<unsigned char>(byte)); }));
}

template <typename T>
void release(std::vector<T>& values) {
  std::vector<T>().swap(values);
}

}  // namespace

void UnitWords::begin_word(std::int64_t count) {
  if (segments.empty() || segments.back().count != count) segments.push_back({units.size(), count});
}

bool Learner::Later::operator()(const Entry& a, const Entry& b) const {
  if (a.count != b.count) return a.count < b.count;
  const Pair& first = learner->pairs_[a.pair];
  const Pair& second = learner->pairs_[b.pair];
  if (first.left != second.left) return learner->spelling(first.left) > learner->spelling(second.left);
  return learner->spelling(first.right) > learner->spelling(second.right);
}

Learner::Learner(UnitWords words, LearnerLimits limits)
    : units_(std::move(words.units)), segments_(std::move(words.segments)), limits_(limits), queue_(Later{this}) {
  if (units_.size() >= kNone) throw std::length_error("the distinct pre-tokens hold 2^32 units or more");
  limits_.min_count = std::max<std::int64_t>(limits_.min_count, 1);
  tokens_.reserve(words.alphabet.size());
  for (std::string& bytes : words.alphabet) {
    const std::uint32_t characters = count_characters(bytes);
    tokens_.push_back({std::move(bytes), 1, characters});
  }
  left_.sums.resize(tokens_.size());
  right_.sums.resize(tokens_.size());
  count_all();
}

// Two passes over the units, so that places are stored only for pairs that may be merged: most pairs are too rare.
void Learner::count_all() {
  struct Sum {
    Id left, right;
    std::int64_t count;
    std::uint32_t places;
  };
  std::vector<Sum> sums;
  PairTable seen;
  const auto each_pair = [&](auto&& visit) {
    std::size_t segment = 0;
    for (std::size_t place = 0; place + 1 < units_.size(); ++place) {
      if (units_[place] == UnitWords::kWordEnd || units_[place + 1] == UnitWords::kWordEnd) continue;
      visit(units_[place], units_[place + 1], static_cast<std::uint32_t>(place), weight_at(static_cast<std::uint32_t>(place), segment));
    }
  };
  each_pair([&](Id left, Id right, std::uint32_t, std::int64_t count) {
    std::uint32_t& index = seen(left, right);
    if (index == kNone) {
      index = static_cast<std::uint32_t>(sums.size());
      sums.push_back({left, right, 0, 0});
    }
    sums[index].count += count;
    sums[index].places += 1;
  });
  for (const Sum& sum : sums) add_pair(sum.left, sum.right, sum.count, sum.places);
  each_pair([&](Id left, Id right, std::uint32_t place, std::int64_t) {
    const std::uint32_t* index = table_.find(left, right);
    if (index != nullptr) pairs_[*index].places.push_back(place);
  });
}

bool Learner::peek(Candidate& candidate) {
  while (!queue_.empty()) {
    const Entry top = queue_.top();
    const Pair& pair = pairs_[top.pair];
    if (top.count == pair.count && !pair.merged) {
      candidate = {pair.left, pair.right, pair.count};
      return true;
    }
    queue_.pop();
    if (!pair.merged && pair.count < top.count && pair.count >= limits_.min_count) queue_.push({pair.count, top.pair});
  }
  return false;
}

bool Learner::merge() {
  Candidate candidate;
  if (!peek(candidate)) throw std::logic_error("no pair is left to merge");
  const std::uint32_t index = queue_.top().pair;
  queue_.pop();
  bool is_new = false;
  const Id token = token_for(pairs_[index], is_new);
  replace(std::move(pairs_[index].places), candidate.left, candidate.right, token);

  // In a run such as "aaaa" a new token is the left neighbour of the next one: that place was counted once as (new, a), which
  // it no longer is.
  if (left_.sums[token].count > 0) right_.sums[candidate.left].count -= left_.sums[token].count;
  bury(left_, token, candidate.left, true);
  bury(right_, token, candidate.right, false);
  if (is_new) {
    give_birth(left_, token, true);
    give_birth(right_, token, false);
  }
  clear(left_);
  clear(right_);
  Pair& pair = pairs_[index];
  pair.count = 0;
  pair.merged = true;
  release(pair.places);
  if (!is_new) recount(token);
  return is_new;
}

// Puts `token` in every place where the pair still stands, and notes its neighbours there.
void Learner::replace(std::vector<std::uint32_t> places, Id left, Id right, Id token) {
  const std::uint32_t left_size = tokens_[left].units;
  const std::uint32_t size = left_size + tokens_[right].units;
  std::size_t segment = 0;
  for (const std::uint32_t place : places) {
    const std::uint32_t middle = place + left_size;
    if (units_[place] != left || units_[middle] != right) continue;  // merged with another neighbour meanwhile
    const std::uint32_t last = place + size - 1;
    units_[middle - 1] = kDead;
    units_[middle] = kDead;
    units_[place] = token;
    units_[last] = token;
    const std::int64_t count = weight_at(place, segment);
    if (place > 0 && units_[place - 1] != UnitWords::kWordEnd) {
      const Id neighbour = units_[place - 1];
      note(left_, neighbour, place - tokens_[neighbour].units, count);
    }
    if (units_[last + 1] != UnitWords::kWordEnd) note(right_, units_[last + 1], place, count);
  }
}

void Learner::note(Side& side, Id neighbour, std::uint32_t place, std::int64_t count) {
  Side::Sum& sum = side.sums[neighbour];
  if (sum.places == 0) side.present.push_back(neighbour);
  sum.count += count;
  sum.places += 1;
  side.events.push_back({neighbour, place});
}

// The pairs that the merged token's neighbours formed with its parts have become rarer.
void Learner::bury(const Side& side, Id token, Id part, bool on_left) {
  for (const Id neighbour : side.present) {
    if (neighbour == token) continue;
    const std::uint32_t* index = on_left ? table_.find(neighbour, part) : table_.find(part, neighbour);
    if (index == nullptr) continue;
    Pair& pair = pairs_[*index];
    // The run "aaa" notes (a, a), the pair being merged: its count is set to 0 by merge(). A correction of (new, a) for runs may
    // exceed what is subtracted here for others never.
    pair.count -= side.sums[neighbour].count;
    if (pair.count < limits_.min_count) release(pair.places);
  }
}

// The pairs that the neighbours form with the new token. A pair's count can only fall from here on, so one that is born too rare is
// never looked at again.
void Learner::give_birth(Side& side, Id token, bool on_left) {
  for (const Id neighbour : side.present) {
    Side::Sum& sum = side.sums[neighbour];
    sum.pair = on_left ? add_pair(neighbour, token, sum.count, sum.places) : add_pair(token, neighbour, sum.count, sum.places);
  }
  for (const Side::Event& event : side.events) {
    const std::uint32_t index = side.sums[event.neighbour].pair;
    if (index != kNone) pairs_[index].places.push_back(event.place);
  }
}

void Learner::clear(Side& side) {
  for (const Id neighbour : side.present) side.sums[neighbour] = {};
  side.present.clear();
  side.events.clear();
}

// Remembers a pair, if it may be merged, with room for its places; its index, or kNone.
std::uint32_t Learner::add_pair(Id left, Id right, std::int64_t count, std::size_t places) {
  if (count < limits_.min_count) return kNone;
  if (limits_.max_characters > 0 && std::size_t{tokens_[left].characters} + tokens_[right].characters > limits_.max_characters) return kNone;
  std::uint32_t& index = table_(left, right);
  if (index == kNone) {
    if (pairs_.size() >= kNone) throw std::length_error("2^32 pairs or more");
    index = static_cast<std::uint32_t>(pairs_.size());
    pairs_.push_back({left, right, 0, {}, false});
  }
  Pair& pair = pairs_[index];
  if (pair.merged) return kNone;
  pair.count = count;
  pair.places.clear();
  pair.places.reserve(places);
  queue_.push({count, index});
  return index;
}

Id Learner::token_for(const Pair& pair, bool& is_new) {
  std::string bytes = tokens_[pair.left].bytes + tokens_[pair.right].bytes;
  const auto [found, inserted] = by_spelling_.try_emplace(bytes, static_cast<Id>(tokens_.size()));
  is_new = inserted;
  if (inserted) {
    const Token& left = tokens_[pair.left];
    const Token& right = tokens_[pair.right];
    tokens_.push_back({std::move(bytes), left.units + right.units, left.characters + right.characters});
    left_.sums.emplace_back();
    right_.sums.emplace_back();
  }
  return found->second;
}

// Counts the pairs of `token` afresh. Needed where two different merges spell the same token, which is the only way a
// count can rise; it is so rare on real text that a scan of everything costs nothing.
void Learner::recount(Id token) {
  for (Pair& pair : pairs_) {
    if (pair.left == token || pair.right == token) {
      pair.count = 0;
      release(pair.places);
    }
  }
  std::size_t segment = 0;
  for (std::size_t at = 0; at < units_.size();) {
    if (units_[at] == UnitWords::kWordEnd) {
      ++at;
      continue;
    }
    const Id left = units_[at];
    const std::size_t next = at + tokens_[left].units;
    const Id right = units_[next];
    const auto place = static_cast<std::uint32_t>(at);
    if (right == token) {
      note(left_, left, place, weight_at(place, segment));
    } else if (left == token && right != UnitWords::kWordEnd) {
      note(right_, right, place, weight_at(place, segment));
    }
    at = next;
  }
  give_birth(left_, token, true);
  give_birth(right_, token, false);
  clear(left_);
  clear(right_);
}

// The count of the word at `place`; `segment` is where the last search ended, a good guess for the next.
std::int64_t Learner::weight_at(std::uint32_t place, std::size_t& segment) const {
  const bool here = segments_[segment].begin <= place && (segment + 1 == segments_.size() || place < segments_[segment + 1].begin);
  if (!here) {
    const auto after = std::upper_bound(segments_.begin(), segments_.end(), place,
                                        [](std::uint32_t value, const UnitWords::Segment& item) { return value < item.begin; });
    segment = static_cast<std::size_t>(after - segments_.begin()) - 1;
  }
  return segments_[segment].count;
}

}  // namespace hanlin
