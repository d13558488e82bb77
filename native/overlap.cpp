#include "overlap.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "prefetch.hpp"
#include "unicode.hpp"

namespace hanlin {

namespace {

constexpr std::uint64_t kBase = 0x9E3779B97F4A7C15;
constexpr std::uint32_t kFree = 0xFFFFFFFF;
constexpr std::size_t kCrowd = 64;  // items looked at that have the same run
constexpr std::uint32_t kNear = 2;  // runs that count together lie within so many lengths of the item

// Spreads a rolling hash, whose low bits hang on the last characters most.
std::uint64_t spread(std::uint64_t hash) {
  hash ^= hash >> 32;
  hash *= 0xD6E8FEB86659FD93;
  return hash ^ hash >> 32;
}

struct Found {
  std::uint32_t item, run;
  std::uint32_t longest, longest_end;  // in characters; the end as the number of the window
  std::uint32_t last, free;            // the last window that matched; the first that overlaps no counted one
  std::uint32_t most;                  // runs that ever counted together
  struct Run {
    std::uint32_t window;
    std::uint64_t hash;
  };
  std::vector<Run> counted;  // different ones: what a text says twice is one hit
};

}  // namespace

OverlapFinder::OverlapFinder(std::size_t n) : n_(n), leaves_(1) {
  if (n == 0) throw std::invalid_argument("a run of 0 characters");
  for (std::size_t power = 1; power < n; ++power) leaves_ *= kBase;
}

// Visits the hash of every window of n characters with its number; returns the number of characters.
template <typename Visit>
std::size_t OverlapFinder::each_gram(std::string_view text, Visit&& visit) const {
  std::uint64_t hash = 0;
  std::size_t behind = 0, count = 0;
  for (std::size_t position = 0; position < text.size(); ++count) {
    const Unit unit = decode_unit(text, position);
    position += unit.size;
    if (count >= n_) {
      const Unit gone = decode_unit(text, behind);
      behind += gone.size;
      hash -= (gone.code_point + 1ULL) * leaves_;
    }
    hash = hash * kBase + (unit.code_point + 1ULL);
    if (count + 1 >= n_) visit(spread(hash), static_cast<std::uint32_t>(count + 1 - n_));
  }
  return count;
}

bool OverlapFinder::add(std::string_view item) {
  const auto number = static_cast<std::uint32_t>(lengths_.size());
  lengths_.push_back(0);
  lengths_.back() = static_cast<std::uint32_t>(each_gram(item, [&](std::uint64_t hash, std::uint32_t) { grams_.push_back({hash, number}); }));
  indexed_ = false;
  return lengths_.back() >= n_;
}

void OverlapFinder::index() {
  if (grams_.size() >= kFree) throw std::length_error("2^32 runs or more");
  std::sort(grams_.begin(), grams_.end(), [](const Gram& left, const Gram& right) { return left.hash != right.hash ? left.hash < right.hash : left.item < right.item; });
  const auto same = [](const Gram& left, const Gram& right) { return left.hash == right.hash && left.item == right.item; };
  grams_.erase(std::unique(grams_.begin(), grams_.end(), same), grams_.end());
  slots_.assign(std::bit_ceil(grams_.size() * 2 + 1), kFree);
  seen_.assign(std::max<std::size_t>(std::bit_ceil(grams_.size() * 16) / 64, 1), 0);
  for (std::size_t at = 0; at < grams_.size(); ++at) {
    if (at > 0 && grams_[at].hash == grams_[at - 1].hash) continue;
    std::size_t slot = grams_[at].hash & (slots_.size() - 1);
    while (slots_[slot] != kFree) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = static_cast<std::uint32_t>(at);
    const std::uint64_t bit = (grams_[at].hash >> 20) & (seen_.size() * 64 - 1);  // as in `find`
    seen_[bit / 64] |= 1ULL << bit % 64;
  }
  indexed_ = true;
}

std::vector<Overlap> OverlapFinder::find(const TextBatch& texts, std::uint32_t hits, std::uint32_t longest, bool every) {
  if (!indexed_) index();
  const auto n = static_cast<std::uint32_t>(n_);
  std::vector<Overlap> result;
  std::vector<Found> found;
  std::vector<std::uint32_t> places(lengths_.size(), kFree);  // of each item in `found`: a text may hold a whole benchmark
  std::vector<std::uint64_t> hashes, begins;
  const std::size_t crowd = every ? grams_.size() : kCrowd;
  const auto bit_of = [&](std::uint64_t hash) { return (hash >> 20) & (seen_.size() * 64 - 1); };
  for (std::size_t text = 0; text < texts.size(); ++text) {
    for (const Found& one : found) places[one.item] = kFree;
    found.clear();
    const auto match = [&](std::uint32_t item, std::uint32_t window, std::uint64_t hash) {
      if (places[item] == kFree) {
        places[item] = static_cast<std::uint32_t>(found.size());
        found.push_back({item, 0, 0, 0, kFree, 0, 0, {}});
      }
      Found* const place = &found[places[item]];
      place->run = place->last + 1 == window && place->run > 0 ? place->run + 1 : 1;
      place->last = window;
      if (window >= place->free) {
        std::erase_if(place->counted, [&](const Found::Run& run) { return window - run.window > kNear * lengths_[item]; });
        if (std::none_of(place->counted.begin(), place->counted.end(), [&](const Found::Run& run) { return run.hash == hash; })) {
          place->counted.push_back({window, hash});
          place->most = std::max(place->most, static_cast<std::uint32_t>(place->counted.size()));
          place->free = window + n;
        }
      }
      if (place->run + n - 1 > place->longest) {
        place->longest = place->run + n - 1;
        place->longest_end = window;
      }
    };
    hashes.clear();
    each_gram(texts[text], [&](std::uint64_t hash, std::uint32_t) {
      prefetch(&seen_[bit_of(hash) / 64]);
      hashes.push_back(hash);
    });
    for (std::uint32_t window = 0; window < hashes.size(); ++window) {
      const std::uint64_t hash = hashes[window], bit = bit_of(hash);
      if ((seen_[bit / 64] >> bit % 64 & 1) == 0) continue;
      for (std::size_t slot = hash & (slots_.size() - 1); slots_[slot] != kFree; slot = (slot + 1) & (slots_.size() - 1)) {
        std::size_t at = slots_[slot];
        if (grams_[at].hash != hash) continue;
        for (std::size_t end = std::min(at + crowd, grams_.size()); at < end && grams_[at].hash == hash; ++at) match(grams_[at].item, window, hash);
        break;
      }
    }
    begins.clear();
    for (const Found& one : found) {
      if (one.most < hits && one.longest < longest && one.longest < lengths_[one.item]) continue;
      // Windows are counted in characters; the passage is given in bytes.
      const std::uint32_t first = one.longest_end + n - one.longest, last = one.longest_end + n;
      if (begins.empty()) begins.push_back(0);
      while (begins.size() <= last) begins.push_back(begins.back() + decode_unit(texts[text], begins.back()).size);
      result.push_back({static_cast<std::uint32_t>(text), one.item, one.most, one.longest, begins[first], begins[last]});
      if (!every) break;
    }
  }
  return result;
}

}  // namespace hanlin
