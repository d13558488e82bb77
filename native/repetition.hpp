// How often the n-grams of one document repeat, for n = 2 … 13, exactly.
//
// An n-gram can only occur twice if both (n-1)-grams within it do. So each length looks only at the places that the one before it
// left over, and names its n-grams by two numbers, the (n-1)-gram's and the last character's, which fit a 64-bit key: nothing is hashed
// away. Of ordinary prose a third of the places reach n = 3 and next to none n = 6; of repetitive text all may reach 13, which is the bound.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hanlin {

// Counts keys of 64 bits. Slots carry the number of the round they were filled in, so starting anew clears nothing.
class RoundTable {
 public:
  // Room for so many distinct keys, none of them counted yet.
  void start(std::size_t keys);

  // Counts the key: the number of its slot, which nothing else has in this round.
  std::uint32_t add(std::uint64_t key) {
    std::size_t place = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15ull) >> shift_);
    while (true) {
      Slot& slot = slots_[place];
      if (slot.round != round_) {
        slot = {key, round_, 1};
        ++distinct_;
        return static_cast<std::uint32_t>(place);
      }
      if (slot.key == key) {
        ++slot.count;
        return static_cast<std::uint32_t>(place);
      }
      place = (place + 1) & mask_;
    }
  }
  std::uint32_t count(std::uint32_t slot) const { return slots_[slot].count; }
  std::size_t distinct() const { return distinct_; }

 private:
  struct Slot {
    std::uint64_t key = 0;
    std::uint32_t round = 0;
    std::uint32_t count = 0;
  };
  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  unsigned shift_ = 63;
  std::uint32_t round_ = 0;
  std::size_t distinct_ = 0;
};

class Repetition {
 public:
  static constexpr std::size_t kLongest = 13;

  // By n: the occurrences of the most frequent n-gram, and the n-grams that occurred earlier in the document; 0 and 1 are not used.
  struct Counts {
    std::array<std::int64_t, kLongest + 1> top{};
    std::array<std::int64_t, kLongest + 1> repeated{};
  };

  // `characters` as numbers below `occurrences.size()`, which tells how often each occurs.
  Counts count(std::span<const std::uint32_t> characters, std::span<const std::uint32_t> occurrences);

 private:
  struct Place {
    std::uint32_t position;
    std::uint32_t gram;  // the n-gram that begins here: its slot, or the character's number for n = 1
  };
  template <typename KeyOf>
  std::size_t without_most_single(std::size_t left, const KeyOf& key_of);

  RoundTable table_;
  std::vector<std::uint8_t> marks_;
  std::vector<Place> places_;
};

}  // namespace hanlin
