// A hash table from pairs of 32-bit ids to a 32-bit value: open addressing, insertion only.
#pragma once

#include <cstddef>
#include <cstdint>
#include "large.hpp"
#include "prefetch.hpp"

namespace hanlin {

class PairTable {
 public:
  static constexpr std::uint32_t kMissing = 0xFFFFFFFF;

  std::size_t size() const { return size_; }

  // Asks for the memory that find() will read first.
  void prefetch(std::uint32_t left, std::uint32_t right) const {
    if (!slots_.empty()) hanlin::prefetch(&slots_[home(key_of(left, right))]);
  }

  // The value, or kMissing.
  std::uint32_t value(std::uint32_t left, std::uint32_t right) const {
    return slots_.empty() ? kMissing : slots_[locate(key_of(left, right))].value;
  }

  // Reference to the value, kMissing if it was not there: the caller then stores one.
  std::uint32_t& operator()(std::uint32_t left, std::uint32_t right) {
    if ((size_ + 1) * 2 > slots_.size()) grow();
    Slot& slot = slots_[locate(key_of(left, right))];
    if (slot.value == kMissing) {
      slot.key = key_of(left, right);
      ++size_;
    }
    return slot.value;
  }

 private:
  struct Slot {
    std::uint64_t key = 0;
    std::uint32_t value = kMissing;
  };

  static std::uint64_t key_of(std::uint32_t left, std::uint32_t right) { return std::uint64_t{left} << 32 | right; }

  std::size_t home(std::uint64_t key) const {
    const std::uint64_t hash = key * 0x9E3779B97F4A7C15ull;
    return static_cast<std::size_t>(hash ^ hash >> 32) & (slots_.size() - 1);
  }

  std::size_t locate(std::uint64_t key) const {
    const std::size_t mask = slots_.size() - 1;
    std::size_t slot = home(key);
    while (slots_[slot].value != kMissing && slots_[slot].key != key) slot = (slot + 1) & mask;
    return slot;
  }

  void grow() {
    LargeVector<Slot> old(slots_.empty() ? 1024 : slots_.size() * 2, Slot{});
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.value != kMissing) slots_[locate(slot.key)] = slot;
    }
  }

  LargeVector<Slot> slots_;  // a power of two
  std::size_t size_ = 0;
};

// Numbers pairs from 0 on in the order they are added; or all pairs of ids below a size, with nothing to look up.
class PairIndex {
 public:
  void all_below(std::uint32_t size) { square_ = size; }
  bool is_square() const { return square_ > 0; }
  void add(std::uint32_t left, std::uint32_t right) {
    const auto next = static_cast<std::uint32_t>(table_.size());
    table_(left, right) = next;
  }

  void prefetch(std::uint32_t left, std::uint32_t right) const {
    if (square_ == 0) table_.prefetch(left, right);
  }
  std::uint32_t of(std::uint32_t left, std::uint32_t right) const { return square_ > 0 ? left * square_ + right : table_.value(left, right); }  // or kMissing

 private:
  std::uint32_t square_ = 0;
  PairTable table_;
};

}  // namespace hanlin
