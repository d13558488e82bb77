#include "learner.hpp"

#include <algorithm>
#include <stdexcept>

#include "parallel.hpp"
#include "prefetch.hpp"
#include "unicode.hpp"

namespace hanlin {

namespace {

constexpr std::uint32_t kNone = PairTable::kMissing;
constexpr std::size_t kAhead = 16;  // places ahead of which memory is asked for
constexpr std::size_t kPause = std::size_t{1} << 20;  // places between two pauses

std::uint32_t count_characters(std::string_view bytes) {
  return static_cast<std::uint32_t>(
      std::count_if(bytes.begin(), bytes.end(), [](char byte) { return !is_continuation(static_cast<unsigned char>(byte)); }));
}

// Gives every pair of ids below `size` an index, as a PairTable does, with nothing to look up.
struct Square {
  Id size;
  void prefetch(Id, Id) const {}
  std::uint32_t value(Id left, Id right) const { return left * size + right; }
};

template <typename Values>
void release(Values& values) {
  Values().swap(values);
}

}  // namespace

Weights::Weights(std::vector<Segment> segments, std::size_t places) : segments_(std::move(segments)) {
  std::uint32_t segment = 0;
  for (std::size_t place = 0; place < places + (2u << kBits); place += 1u << kBits) {
    while (segment + 1 < segments_.size() && segments_[segment + 1].begin <= place) ++segment;
    near_.push_back(segment);
  }
}

std::size_t Weights::search(std::size_t place, std::size_t first, std::size_t last) const {
  const auto begin = segments_.begin() + static_cast<std::ptrdiff_t>(first) + 1, end = segments_.begin() + static_cast<std::ptrdiff_t>(last) + 1;
  const auto after = std::upper_bound(begin, end, place, [](std::size_t value, const Segment& item) { return value < item.begin; });
  return static_cast<std::size_t>(after - segments_.begin()) - 1;
}

template <typename Symbol>
bool Learner<Symbol>::Later::operator()(const Entry& a, const Entry& b) const {
  if (a.count != b.count) return a.count < b.count;
  const Pair& first = learner->pairs_[a.pair];
  const Pair& second = learner->pairs_[b.pair];
  if (first.left != second.left) return learner->spelling(first.left) > learner->spelling(second.left);
  return learner->spelling(first.right) > learner->spelling(second.right);
}

template <typename Symbol>
Learner<Symbol>::Learner(UnitWords<Symbol> words, LearnerLimits limits)
    : units_(std::move(words.units)), weights_(std::move(words.segments), units_.size()), limits_(limits), alphabet_(words.alphabet.size()), queue_(Later{this}) {
  if (units_.size() >= kNone) throw std::length_error("the distinct pre-tokens hold 2^32 units or more");
  if (alphabet_ > kDead) throw std::length_error("more characters than there are symbols");
  limits_.min_count = std::max<std::int64_t>(limits_.min_count, 1);
  limits_.threads = std::max<std::size_t>(units_.size() < kPause ? 1 : limits_.threads, 1);
  tokens_.reserve(alphabet_);
  for (std::string& bytes : words.alphabet) {
    const std::uint32_t characters = count_characters(bytes);
    tokens_.push_back({std::move(bytes), 1, characters, 0, 0});
  }
  left_.sums.resize(alphabet_);
  right_.sums.resize(alphabet_);
  count_all(std::move(words.candidates));
}

template <typename Symbol>
void Learner<Symbol>::count_all(std::vector<std::pair<Id, Id>> candidates) {
  if (candidates.empty() && alphabet_ <= 256 && units_.size() >= kPause) {  // bytes: all that could be
    const auto size = static_cast<Id>(alphabet_);
    for (Id index = 0; index < size * size; ++index) candidates.emplace_back(index / size, index % size);
    return count_pairs(candidates, Square{size});
  }
  if (candidates.empty()) candidates = all_pairs();
  PairTable known;
  for (const auto& [left, right] : candidates) {
    const auto index = static_cast<std::uint32_t>(known.size());
    known(left, right) = index;
  }
  count_pairs(candidates, known);
}

template <typename Symbol>
std::vector<std::pair<Id, Id>> Learner<Symbol>::all_pairs() const {
  std::vector<std::pair<Id, Id>> pairs;
  PairTable seen;
  for (std::size_t place = 0; place + 1 < units_.size(); ++place) {
    const Symbol left = units_[place], right = units_[place + 1];
    if (left == kWordEnd || right == kWordEnd) continue;
    std::uint32_t& known = seen(left, right);
    if (known != kNone) continue;
    known = 0;
    pairs.emplace_back(left, right);
  }
  return pairs;
}

// Two passes over the units, so that places are stored only for pairs that may be merged: most pairs are too rare. Every thread has a
// stretch of the units; in a pair's places what it found lies behind what those before it found, so they ascend.
template <typename Symbol>
template <typename Table>
void Learner<Symbol>::count_pairs(const std::vector<std::pair<Id, Id>>& pairs, const Table& index_of) {
  struct Sum {
    std::int64_t count = 0;
    std::uint32_t places = 0;
    std::uint32_t* end = nullptr;  // of the places written so far
  };
  const std::size_t threads = limits_.threads;
  std::vector<std::vector<Sum>> sums(threads);
  const auto each = [&](std::size_t part, const std::atomic<bool>& stop, const auto& visit) {
    const std::size_t last = begin_of_part(units_.size(), part + 1, threads), near = units_.size() - std::min(units_.size(), kAhead + 1);
    for (std::size_t place = begin_of_part(units_.size(), part, threads); place < last; ++place) {
      if (place % kPause == 0) {
        if (stop) return;
        if (part == 0 && limits_.pause) limits_.pause();
      }
      if (place < near) index_of.prefetch(units_[place + kAhead], units_[place + kAhead + 1]);
      const Symbol left = units_[place];
      if (left == kWordEnd || units_[place + 1] == kWordEnd) continue;  // the last unit is such an end
      const std::uint32_t index = index_of.value(left, units_[place + 1]);
      if (index != kNone) visit(place, sums[part][index]);
    }
  };
  in_parallel(threads, [&](std::size_t part, const std::atomic<bool>& stop) {
    sums[part].resize(pairs.size());
    const std::vector<Segment>& segments = weights_.segments();
    std::size_t segment = 0;
    each(part, stop, [&](std::size_t place, Sum& sum) {
      while (segment + 1 < segments.size() && segments[segment + 1].begin <= place) ++segment;
      sum.count += segments[segment].count;
      sum.places += 1;
    });
  });
  for (std::size_t index = 0; index < pairs.size(); ++index) {
    std::int64_t count = 0;
    std::size_t places = 0;
    for (const auto& part : sums) {
      count += part[index].count;
      places += part[index].places;
    }
    const std::uint32_t pair = add_pair(pairs[index].first, pairs[index].second, count, 0);
    if (pair == kNone) continue;
    pairs_[pair].places.resize(places);
    std::uint32_t* end = pairs_[pair].places.data();
    for (auto& part : sums) end = (part[index].end = end) + part[index].places;
  }
  in_parallel(threads, [&](std::size_t part, const std::atomic<bool>& stop) {
    each(part, stop, [&](std::size_t place, Sum& sum) {
      if (sum.end != nullptr) *sum.end++ = static_cast<std::uint32_t>(place);
    });
  });
}

template <typename Symbol>
bool Learner<Symbol>::peek(Candidate& candidate) {
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

template <typename Symbol>
void Learner<Symbol>::merge() {
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
template <typename Symbol>
void Learner<Symbol>::replace(const Places& places, Id left, Id right, Id token) {
  const std::uint32_t left_size = tokens_[left].units;
  const std::uint32_t size = left_size + tokens_[right].units;
  const auto symbol = static_cast<Symbol>(token);
  for (std::size_t index = 0; index < places.size(); ++index) {
    if (index + kAhead < places.size()) prefetch(&units_[places[index + kAhead]]);
    const std::uint32_t place = places[index];
    const std::uint32_t middle = place + left_size;
    if (units_[place] != left || units_[middle] != right) continue;  // merged with another neighbour meanwhile
    const std::uint32_t last = place + size - 1;
    units_[middle - 1] = kDead;
    units_[middle] = kDead;
    units_[place] = symbol;
    units_[last] = symbol;
    const std::int64_t count = weights_.at(place);
    if (place > 0 && units_[place - 1] != kWordEnd) {
      const Id neighbour = units_[place - 1];
      note(left_, neighbour, place - tokens_[neighbour].units, count);
    }
    if (units_[last + 1] != kWordEnd) note(right_, units_[last + 1], place, count);
  }
}

template <typename Symbol>
void Learner<Symbol>::note(Side& side, Id neighbour, std::uint32_t place, std::int64_t count) {
  typename Side::Sum& sum = side.sums[neighbour];
  if (sum.places == 0) side.present.push_back(neighbour);
  sum.count += count;
  sum.places += 1;
  side.events.push_back({neighbour, place});
}

// The pairs that the merged token's neighbours formed with its parts have become rarer.
template <typename Symbol>
void Learner<Symbol>::bury(const Side& side, Id token, Id part, bool on_left) {
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
template <typename Symbol>
void Learner<Symbol>::give_birth(Side& side, Id token, bool on_left) {
  for (const Id neighbour : side.present) {
    typename Side::Sum& sum = side.sums[neighbour];
    sum.pair = on_left ? add_pair(neighbour, token, sum.count, sum.places) : add_pair(token, neighbour, sum.count, sum.places);
  }
  for (const typename Side::Event& event : side.events) {
    const std::uint32_t index = side.sums[event.neighbour].pair;
    if (index != kNone) pairs_[index].places.push_back(event.place);
  }
}

template <typename Symbol>
void Learner<Symbol>::clear(Side& side) {
  for (const Id neighbour : side.present) side.sums[neighbour] = {};
  side.present.clear();
  side.events.clear();
}

// Remembers a pair, if it may be merged, with room for its places; its index, or kNone.
template <typename Symbol>
std::uint32_t Learner<Symbol>::add_pair(Id left, Id right, std::int64_t count, std::size_t places) {
  if (count < limits_.min_count) return kNone;
  if (limits_.max_characters > 0 && std::size_t{tokens_[left].characters} + tokens_[right].characters > limits_.max_characters) return kNone;
  const auto index = static_cast<std::uint32_t>(pairs_.size());  // fewer than units, hence below 2^32
  table_(left, right) = index;
  pairs_.push_back({left, right, count, {}});
  pairs_.back().places.reserve(places);
  queue_.push({count, index});
  return index;
}

template <typename Symbol>
Id Learner<Symbol>::new_token(Id left, Id right) {
  if (tokens_.size() >= kDead) throw std::length_error("more tokens than there are symbols");
  const Token &head = tokens_[left], &tail = tokens_[right];
  tokens_.push_back({head.bytes + tail.bytes, head.units + tail.units, head.characters + tail.characters, left, right});
  left_.sums.emplace_back();
  right_.sums.emplace_back();
  return static_cast<Id>(tokens_.size() - 1);
}

template <typename Symbol>
UnitWords<Symbol> Learner<Symbol>::take_words() {
  for (std::size_t place = 0; place < units_.size();) {
    const Symbol id = units_[place];
    if (id == kWordEnd || id < alphabet_) {
      ++place;
      continue;
    }
    const Token &token = tokens_[id], &left = tokens_[token.left];
    const std::size_t middle = place + left.units;
    units_[place] = units_[middle - 1] = static_cast<Symbol>(token.left);
    units_[middle] = units_[place + token.units - 1] = static_cast<Symbol>(token.right);
  }
  pairs_.clear();
  queue_ = decltype(queue_)(Later{this});
  UnitWords<Symbol> words;
  for (std::size_t id = 0; id < alphabet_; ++id) words.alphabet.push_back(std::move(tokens_[id].bytes));
  words.units = std::move(units_);
  words.segments = weights_.take();
  return words;
}

template class Learner<std::uint16_t>;
template class Learner<std::uint32_t>;

}  // namespace hanlin
