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
constexpr std::size_t kManyEvents = std::size_t{1} << 16;
constexpr std::size_t kPause = std::size_t{1} << 20;  // places between two pauses

std::uint32_t count_characters(std::string_view bytes) {
  return static_cast<std::uint32_t>(
      std::count_if(bytes.begin(), bytes.end(), [](char byte) { return !is_continuation(static_cast<unsigned char>(byte)); }));
}

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
    : units_(std::move(words.units)), weights_(std::move(words.segments), units_.size()), limits_(limits), alphabet_(words.alphabet.size()), queue_(Later{this}), untidy_(2 * limits_.places_at_once) {
  if (units_.size() >= kNone) throw std::length_error("the distinct pre-tokens hold 2^32 units or more");
  if (alphabet_ > kDead) throw std::length_error("more characters than there are symbols");
  limits_.min_count = std::max<std::int64_t>(limits_.min_count, 1);
  limits_.threads = std::max<std::size_t>(limits_.threads, 1);
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
    index_.all_below(size);
  } else {
    if (candidates.empty()) candidates = all_pairs();
    for (const auto& [left, right] : candidates) index_.add(left, right);
  }
  unlisted_.assign(candidates.size(), kNone);
  LargeVector<std::uint32_t> found;  // so that nothing is looked up a second time
  if (!index_.is_square()) found.resize(units_.size());
  const std::vector<Sums> sums = count_pairs(found);
  for (std::size_t index = 0; index < candidates.size(); ++index) {
    std::int64_t count = 0;
    for (const Sums& part : sums) count += part[index].count;
    unlisted_[index] = add_pair(candidates[index].first, candidates[index].second, count, 0);
    if (unlisted_[index] != kNone) pairs_[unlisted_[index]].listed = false;
  }
  list_places(sums, found);
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

// Calls visit(place, index of the pair) where two units that no merge has touched are neighbours, in one part of the units of `threads`.
template <typename Symbol>
template <typename Visit>
void Learner<Symbol>::each_pair(std::size_t part, const std::atomic<bool>& stop, const Visit& visit) const {
  const std::size_t begin = begin_of_part(units_.size(), part, limits_.threads), end = begin_of_part(units_.size(), part + 1, limits_.threads);
  const std::size_t near = units_.size() - std::min(units_.size(), kAhead + 1);
  for (std::size_t place = begin; place < end; ++place) {
    if ((place - begin) % kPause == 0) {
      if (stop) return;
      if (part == 0 && limits_.pause) limits_.pause();
    }
    if (place < near) index_.prefetch(units_[place + kAhead], units_[place + kAhead + 1]);
    if (units_[place] >= alphabet_ || units_[place + 1] >= alphabet_) continue;  // the last unit is a word's end
    const std::uint32_t index = index_.of(units_[place], units_[place + 1]);
    if (index != kNone) visit(place, index);
  }
}

// In `found`, unless it is empty, goes each place's index.
template <typename Symbol>
std::vector<typename Learner<Symbol>::Sums> Learner<Symbol>::count_pairs(LargeVector<std::uint32_t>& found) const {
  std::vector<Sums> sums(limits_.threads);
  in_parallel(limits_.threads, [&](std::size_t part, const std::atomic<bool>& stop) {
    Sums own(unlisted_.size());
    if (!found.empty()) {
      const auto begin = static_cast<std::ptrdiff_t>(begin_of_part(found.size(), part, limits_.threads));
      const auto end = static_cast<std::ptrdiff_t>(begin_of_part(found.size(), part + 1, limits_.threads));
      std::fill(found.begin() + begin, found.begin() + end, kNone);
    }
    const std::vector<Segment>& segments = weights_.segments();
    std::size_t segment = 0;
    each_pair(part, stop, [&](std::size_t place, std::uint32_t index) {
      while (segment + 1 < segments.size() && segments[segment + 1].begin <= place) ++segment;
      own[index].count += segments[segment].count;
      own[index].places += 1;
      if (!found.empty()) found[place] = index;
    });
    sums[part] = std::move(own);
  });
  return sums;
}

// Lists the places of the most frequent pairs that have no list yet, as many as fit into one round. In a list, what a thread finds lies
// behind what the threads before it found, so places ascend.
template <typename Symbol>
void Learner<Symbol>::list_places(const std::vector<Sums>& sums, const LargeVector<std::uint32_t>& found) {
  std::vector<std::uint32_t> order;
  for (std::uint32_t index = 0; index < unlisted_.size(); ++index) {
    if (unlisted_[index] != kNone && pairs_[unlisted_[index]].count >= limits_.min_count) order.push_back(index);
  }
  const auto count_of = [&](std::uint32_t index) { return pairs_[unlisted_[index]].count; };
  std::sort(order.begin(), order.end(), [&](std::uint32_t a, std::uint32_t b) { return count_of(a) > count_of(b); });
  std::size_t listed = 0;
  std::int64_t last = 0;  // count of the pair listed last: all of that count are
  std::vector<std::vector<std::uint32_t*>> ends(sums.size(), std::vector<std::uint32_t*>(unlisted_.size(), nullptr));  // of what is written
  for (const std::uint32_t index : order) {
    if (listed > limits_.places_at_once && count_of(index) < last) break;
    last = count_of(index);
    std::size_t places = 0;
    for (const Sums& part : sums) places += part[index].places;
    Pair& pair = pairs_[std::exchange(unlisted_[index], kNone)];
    pair.listed = true;
    pair.places.resize(places);
    std::uint32_t* end = pair.places.data();
    for (std::size_t part = 0; part < sums.size(); ++part) end = (ends[part][index] = end) + sums[part][index].places;
    listed += places;
  }
  held_ += listed;
  in_parallel(limits_.threads, [&](std::size_t part, const std::atomic<bool>& stop) {
    std::vector<std::uint32_t*>& end = ends[part];
    const auto list = [&](std::size_t place, std::uint32_t index) {
      if (end[index] != nullptr) *end[index]++ = static_cast<std::uint32_t>(place);
    };
    if (found.empty()) return each_pair(part, stop, list);
    const std::size_t next = begin_of_part(found.size(), part + 1, limits_.threads);  // where the next part begins
    for (std::size_t place = begin_of_part(found.size(), part, limits_.threads); place < next; ++place) {
      if (found[place] != kNone) list(place, found[place]);
    }
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
  if (!pairs_[index].listed) {
    LargeVector<std::uint32_t> none;
    list_places(count_pairs(none), none);
  }
  const Id token = new_token(best.left, best.right);
  const Places places = std::move(pairs_[index].places);
  held_ -= places.size();
  replace(places, best.left, best.right, token);
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
  if (held_ > untidy_) tidy();
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
  for (std::size_t item = 0; item < side.present.size(); ++item) {
    if (item + kAhead < side.present.size()) {
      const Id later = side.present[item + kAhead];
      on_left ? table_.prefetch(later, part) : table_.prefetch(part, later);
    }
    const Id neighbour = side.present[item];
    if (neighbour == token) continue;
    const std::uint32_t index = on_left ? table_.value(neighbour, part) : table_.value(part, neighbour);
    if (index == kNone) continue;
    Pair& pair = pairs_[index];
    pair.count -= side.sums[neighbour].count;
    if (pair.count >= limits_.min_count) continue;
    held_ -= pair.places.size();
    release(pair.places);
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
    if (index == kNone) continue;
    pairs_[index].places.push_back(event.place);
    ++held_;
  }
}

template <typename Symbol>
void Learner<Symbol>::clear(Side& side) {
  for (const Id neighbour : side.present) side.sums[neighbour] = {};
  side.present.clear();
  side.events.clear();
  if (side.events.capacity() > kManyEvents) release(side.events);
}

// Forgets places that have changed since they were listed: where there are very many, most of those held would be such.
template <typename Symbol>
void Learner<Symbol>::tidy() {
  held_ = 0;
  std::size_t rested = 0;
  for (Pair& pair : pairs_) {
    if (limits_.pause && held_ > rested + kPause) {
      limits_.pause();
      rested = held_;
    }
    const std::uint32_t size = tokens_[pair.left].units;
    std::size_t standing = 0;
    for (std::size_t index = 0; index < pair.places.size(); ++index) {
      if (index + kAhead < pair.places.size()) prefetch(&units_[pair.places[index + kAhead]]);
      const std::uint32_t place = pair.places[index];
      if (units_[place] == pair.left && units_[place + size] == pair.right) pair.places[standing++] = place;
    }
    Places(pair.places.begin(), pair.places.begin() + static_cast<std::ptrdiff_t>(standing)).swap(pair.places);
    held_ += standing;
  }
  untidy_ = std::max(2 * held_, 2 * limits_.places_at_once);
}

// Remembers a pair, if it may be merged, with room for its places; its index, or kNone.
template <typename Symbol>
std::uint32_t Learner<Symbol>::add_pair(Id left, Id right, std::int64_t count, std::size_t places) {
  if (count < limits_.min_count) return kNone;
  if (limits_.max_characters > 0 && std::size_t{tokens_[left].characters} + tokens_[right].characters > limits_.max_characters) return kNone;
  const auto index = static_cast<std::uint32_t>(pairs_.size());  // fewer than units, hence below 2^32
  table_(left, right) = index;
  pairs_.push_back({left, right, count, {}, true});
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
