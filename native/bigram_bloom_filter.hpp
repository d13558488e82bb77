// A Bloom filter of one hash over pairs of neighbouring characters: says yes to every pair that was added and to a few others.
// Small enough for the second-level cache. Its users need no more: where it says yes wrongly they do some work in vain.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace hanlin {

class BigramBloomFilter {
 public:
  BigramBloomFilter() = default;

  // For `pairs` of them; wrong in at most one case of 32 then.
  explicit BigramBloomFilter(std::size_t pairs)
      : shift_(64 - static_cast<unsigned>(std::countr_zero(std::bit_ceil((pairs < 2048 ? 2048 : pairs) * 32)))), bits_((std::size_t{1} << (64 - shift_)) / 64, 0) {}

  bool empty() const { return bits_.empty(); }

  void add(std::uint32_t left, std::uint32_t right) {
    const std::size_t bit = bit_of(left, right);
    bits_[bit / 64] |= std::uint64_t{1} << bit % 64;
  }

  bool has(std::uint32_t left, std::uint32_t right) const {
    const std::size_t bit = bit_of(left, right);
    return (bits_[bit / 64] >> bit % 64 & 1) != 0;
  }

 private:
  std::size_t bit_of(std::uint32_t left, std::uint32_t right) const {
    return static_cast<std::size_t>((std::uint64_t{left} << 21 | right) * 0x9E3779B97F4A7C15ull >> shift_);
  }

  unsigned shift_ = 0;
  std::vector<std::uint64_t> bits_;
};

}  // namespace hanlin
