// Lays counted words out for the learner: the most frequent first, as symbols, in memory that is allocated once and first touched by
// the threads that fill it.
//
// How much the words of every weight take is measured first, in parts of the words that threads measure at the same time; then every part
// knows where its words of a weight belong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

#include "learner.hpp"
#include "parallel.hpp"

namespace hanlin {

// How much the words of each weight take; later, where the next one goes.
class SizesByWeight {
 public:
  static constexpr std::int64_t kFew = 4096;

  std::size_t& operator[](std::int64_t weight) { return weight < kFew ? few_[static_cast<std::size_t>(weight)] : many_[weight]; }
  const std::map<std::int64_t, std::size_t, std::greater<>>& many() const { return many_; }  // of weights from kFew on

 private:
  std::vector<std::size_t> few_ = std::vector<std::size_t>(kFew, 0);
  std::map<std::int64_t, std::size_t, std::greater<>> many_;
};

// Sizes become places, of all parts' words among one another. Gives the segments, and the size of all.
inline std::pair<std::vector<Segment>, std::size_t> places_of(std::vector<SizesByWeight>& parts) {
  std::vector<Segment> segments;
  std::size_t begin = 0;
  const auto open = [&](std::int64_t weight) {
    const std::size_t before = begin;
    for (SizesByWeight& sizes : parts) {
      std::size_t& size = sizes[weight];
      begin += std::exchange(size, begin);
    }
    if (begin > before) segments.push_back({before, weight});
  };
  std::map<std::int64_t, bool, std::greater<>> many;
  for (const SizesByWeight& sizes : parts) {
    for (const auto& [weight, size] : sizes.many()) many[weight] = true;
  }
  for (const auto& [weight, found] : many) open(weight);
  for (std::int64_t weight = SizesByWeight::kFew - 1; weight > 0; --weight) open(weight);
  return {std::move(segments), begin};
}

// `each(part, stop, visit)` calls visit(word, weight) for all words of a part, the same ones as were measured; `write(word, symbols)`
// writes a word and returns the end of what it wrote, one symbol short of what was measured, for the mark.
template <typename Symbol, typename Each, typename Write>
void lay_out(UnitWords<Symbol>& words, std::vector<SizesByWeight>& parts, const Each& each, const Write& write) {
  std::size_t size = 0;
  std::tie(words.segments, size) = places_of(parts);
  words.units.resize(size);
  in_parallel(parts.size(), [&](std::size_t part, const std::atomic<bool>& stop) {
    each(part, stop, [&](auto word, std::int64_t weight) {
      std::size_t& place = parts[part][weight];
      Symbol* end = write(word, words.units.data() + place);
      *end++ = UnitWords<Symbol>::kWordEnd;
      place = static_cast<std::size_t>(end - words.units.data());
    });
  });
}

}  // namespace hanlin
