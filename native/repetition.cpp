#include "repetition.hpp"

#include <algorithm>
#include <bit>

namespace hanlin {

void RoundTable::start(std::size_t keys) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(keys + keys / 4 + 1, 16));
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
  distinct_ = 0;
}

Repetition::Counts Repetition::count(std::span<const std::uint32_t> characters, std::span<const std::uint32_t> occurrences) {
  Counts result;
  const std::size_t size = characters.size();
  const auto again = [&](std::size_t position) { return occurrences[characters[position]] > 1; };
  // Places where an n-gram could begin that occurs twice: for n = 2, where both characters do.
  if (places_.size() < size) places_.resize(size);
  std::size_t left = 0;
  for (std::size_t position = 0; position + 1 < size; ++position) {
    places_[left] = {static_cast<std::uint32_t>(position), characters[position]};
    left += again(position) && again(position + 1);
  }
  for (std::size_t n = 2; n <= kLongest && n <= size; ++n) {
    result.top[n] = 1;
    if (left == 0) continue;
    const auto key_of = [&](const Place& place) { return std::uint64_t{place.gram} << 32 | characters[place.position + n - 1]; };
    if (n <= 4) left = without_most_single(left, key_of);  // of those left over later, most do occur twice
    table_.start(left);
    for (std::size_t index = 0; index < left; ++index) {
      Place& place = places_[index];
      place.gram = table_.add(key_of(place));
    }
    result.repeated[n] = static_cast<std::int64_t>(left - table_.distinct());
    std::uint32_t top = 1;
    std::size_t kept = 0;
    for (std::size_t index = 0; index + 1 < left; ++index) {
      const Place here = places_[index], next = places_[index + 1];
      const std::uint32_t count = table_.count(here.gram);
      top = std::max(top, count);
      places_[kept] = here;
      kept += next.position == here.position + 1 && count > 1 && table_.count(next.gram) > 1;
    }
    result.top[n] = left > 0 ? std::max(top, table_.count(places_[left - 1].gram)) : 1;
    left = kept;
  }
  return result;
}

// Leaves out most places whose n-gram occurs once, without a branch that depends on the text: each n-gram marks a byte by its hash, and
// where nothing else marked it, nothing else was equal. One in ten stays for having met another.
template <typename KeyOf>
std::size_t Repetition::without_most_single(std::size_t left, const KeyOf& key_of) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(8 * left, 64));
  const unsigned shift = 64u - static_cast<unsigned>(std::countr_zero(size));
  const auto mark_of = [&](const Place& place) -> std::uint8_t& { return marks_[static_cast<std::size_t>(key_of(place) * 0x9E3779B97F4A7C15ull >> shift)]; };
  if (marks_.size() < size) marks_.resize(size);
  std::fill_n(marks_.begin(), size, std::uint8_t{0});
  for (std::size_t index = 0; index < left; ++index) {
    std::uint8_t& mark = mark_of(places_[index]);
    mark = static_cast<std::uint8_t>(2 * mark + 1);  // no branch, and never 0 or 1 again
  }
  std::size_t kept = 0;
  for (std::size_t index = 0; index < left; ++index) {
    const Place place = places_[index];
    places_[kept] = place;
    kept += mark_of(place) > 1;
  }
  return kept;
}

}  // namespace hanlin
