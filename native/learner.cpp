#include "learner.hpp"

#include <algorithm>
#include <stdexcept>

#include "prefetch.hpp"
#include "unicode.hpp"

namespace hanlin {

namespace {

constexpr std::uint32_t kNone = PairTable::kMissing;
constexpr std::size_t kAhead = 16;  // places ahead of which memory is asked for
constexpr std::size_t kPause = std::size_t{1} << 20;  // places between two pauses
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
  count_all(words.candidates);
}

// Two passes over the units, so that places are stored only for pairs that may be merged: most pairs are too rare.
void Learner::count_all(const std::vector<std::pair<Id, Id>>& candidates) {
  struct Sum {
    Id left, right;
    std::int64_t count;
    std::uint32_t places;
  };
  std::vector<Sum> sums;
  PairTable seen;
  const auto new_sum = [&](Id left, Id right) {
    sums.push_back({left, right, 0, 0});
    return static_cast<std::uint32_t>(sums.size() - 1);
  };
  for (const auto& [left, right] : candidates) seen(left, right) = new_sum(left, right);
  std::vector<std::uint32_t> sum_at(units_.size(), kNone);  // so that the second pass looks nothing up
  std::size_t segment = 0;
  for (std::size_t place = 0; place + 1 < units_.size(); ++place) {
    if (place % kPause == 0 && limits_.pause) limits_.pause();
    const Id left = units_[place], right = units_[place + 1];
    if (place + kAhead + 1 < units_.size()) seen.prefetch(units_[place + kAhead], units_[place + kAhead + 1]);
    if (left == UnitWords::kWordEnd || right == UnitWords::kWordEnd) continue;
    const std::uint32_t* known = seen.find(left, right);
    if (known == nullptr && !candidates.empty()) continue;
    const std::uint32_t index = known != nullptr ? *known : seen(left, right) = new_sum(left, right);
    sum_at[place] = index;
    sums[index].count += weight_at(static_cast<std::uint32_t>(place), segment);
    sums[index].places += 1;
  }
  std::vector<std::uint32_t*> ends(sums.size(), nullptr);  // of the places written so far
  for (std::size_t index = 0; index < sums.size(); ++index) {
    const Sum& sum = sums[index];
    const std::uint32_t pair = add_pair(sum.left, sum.right, sum.count, sum.places);
    if (pair == kNone) continue;
    pairs_[pair].places.resize(sum.places);
    ends[index] = pairs_[pair].places.data();
  }
  for (std::size_t place = 0; place < units_.size(); ++place) {
    if (place % kPause == 0 && limits_.pause) limits_.pause();
    if (sum_at[place] == kNone) continue;
    std::uint32_t*& end = ends[sum_at[place]];
    if (end != nullptr) *end++ = static_cast<std::uint32_t>(place);
  }
}

bool Learner::peek(Candidate& candidate) {
  while (!queue_.empty()) {
    const Entry top = queue_.top();
    const Pair& pair = pairs_[top.pair];
    if (top.count == pair.count) {
      candidate = {pair.left, pair.right, pair.count};
      return true;
    }
    queue_.pop();
    if (pair.count >= limits_.min_count) queue_.push({pair.count, top.pair});
  }
  return false;
}

void Learner::merge() {
  Candidate best;
  if (!peek(best)) throw std::logic_error("no pair is left to merge");
  const std::uint32_t index = queue_.top().pair;
  queue_.pop();
  const Id token = new_token(best.left, best.right);
  replace(std::move(pairs_[index].places), best.left, best.right, token);
  bury(left_, token, best.left, true);
  bury(right_, token, best.right, false);
  // In "abab" the first new token notes the second a as its right neighbour, the second one the first as its left neighbour: what
  // was counted as (new, a) has become (new, new).
  right_.sums[best.left].count -= left_.sums[token].count;
  give_birth(left_, token, true);
  give_birth(right_, token, false);
  clear(left_);
  clear(right_);
  pairs_[index].count = 0;
}

// Puts `token` in every place where the pair still stands, and notes its neighbours there.
void Learner::replace(std::vector<std::uint32_t> places, Id left, Id right, Id token) {
  const std::uint32_t left_size = tokens_[left].units;
  const std::uint32_t size = left_size + tokens_[right].units;
  std::size_t segment = 0;
  for (std::size_t index = 0; index < places.size(); ++index) {
    if (index + kAhead < places.size()) prefetch(&units_[places[index + kAhead]]);
    const std::uint32_t place = places[index];
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
  const auto index = static_cast<std::uint32_t>(pairs_.size());  // fewer than units, hence below 2^32
  table_(left, right) = index;
  pairs_.push_back({left, right, count, {}});
  pairs_.back().places.reserve(places);
  queue_.push({count, index});
  return index;
}

Id Learner::new_token(Id left, Id right) {
  const Token &head = tokens_[left], &tail = tokens_[right];
  tokens_.push_back({head.bytes + tail.bytes, head.units + tail.units, head.characters + tail.characters});
  left_.sums.emplace_back();
  right_.sums.emplace_back();
  return static_cast<Id>(tokens_.size() - 1);
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
