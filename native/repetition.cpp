#include "repetition.hpp"

#include <algorithm>
#include <bit>

namespace hanlin {

void RoundTable::start(std::size_t keys) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(2 * keys, 16));
  if (slots_.size() < size) {
    slots_.assign(size, Slot{});
    round_ = 0;
  }
  if (++round_ == 0) {  // every 2^32 rounds
    std::fill(slots_.begin(), slots_.end(), Slot{});
    round_ = 1;
  }
  mask_ = size - 1;  // a small round in a large table stays within its first slots, and so in the cache
  shift_ = 64u - static_cast<unsigned>(std::countr_zero(size));
  count_ = 0;
}

Repetition::Counts Repetition::count(std::span<const std::uint32_t> characters, std::span<const std::uint32_t> occurrences) {
  Counts result;
  const std::size_t size = characters.size();
  // Places that are left have characters, and later (n-1)-grams, that occur at least twice.
  places_.resize(size);
  for (std::size_t position = 0; position < size; ++position) places_[position] = {static_cast<std::uint32_t>(position), characters[position]};
  std::span<const std::uint32_t> counts = occurrences;
  std::size_t left = size;
  for (std::size_t n = 2; n <= kLongest && n <= size; ++n) {
    result.top[n] = 1;
    std::size_t kept = 0;
    for (std::size_t index = 0; index + 1 < left; ++index) {
      const Place here = places_[index], next = places_[index + 1];
      places_[kept] = here;
      kept += next.position == here.position + 1 && counts[here.gram] > 1 && counts[next.gram] > 1;
    }
    left = kept;
    if (left == 0) continue;
    table_.start(left);
    counts_.assign(left, 0);
    for (std::size_t index = 0; index < left; ++index) {
      Place& place = places_[index];
      place.gram = table_.number_of(std::uint64_t{place.gram} << 32 | characters[place.position + n - 1]);
      ++counts_[place.gram];
    }
    counts = std::span<const std::uint32_t>(counts_).first(table_.size());
    result.top[n] = std::ranges::max(counts);
    result.repeated[n] = static_cast<std::int64_t>(left) - table_.size();
  }
  return result;
}

}  // namespace hanlin
