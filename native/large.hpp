// Vectors for hundreds of megabytes. Growing one by resize() does not touch its memory, so that whoever fills it is the first to, on
// several threads if need be; and large ones ask for huge pages, without which the first touch of a page and the search for its
// address take longer than the work on it (measured here: 1 against 20 GB/s).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace hanlin {

template <typename T>
struct LargeAllocator {
  static_assert(std::is_trivially_destructible_v<T>);
  using value_type = T;

  LargeAllocator() = default;
  template <typename Other>
  LargeAllocator(const LargeAllocator<Other>&) {}

  T* allocate(std::size_t size) {
    if (size > static_cast<std::size_t>(-1) / 2 / sizeof(T)) throw std::bad_array_new_length();
    void* memory = is_large(size) ? map(rounded(size)) : std::malloc(size * sizeof(T));
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t size) { is_large(size) ? unmap(memory, rounded(size)) : std::free(memory); }

  template <typename Other>
  void construct(Other* place) {
    ::new (static_cast<void*>(place)) Other;  // not zeroed
  }
  template <typename Other, typename... Arguments>
  void construct(Other* place, Arguments&&... arguments) {
    ::new (static_cast<void*>(place)) Other(std::forward<Arguments>(arguments)...);
  }

  template <typename Other>
  bool operator==(const LargeAllocator<Other>&) const {
    return true;
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t{1} << 21;

  static std::size_t rounded(std::size_t size) { return (size * sizeof(T) + kHugePage - 1) / kHugePage * kHugePage; }

#if defined(__linux__)
  // From the system and straight back to it: what malloc keeps of freed memory, for every thread, would count against a limit.
  static bool is_large(std::size_t size) { return size * sizeof(T) >= 2 * kHugePage; }
  static void* map(std::size_t bytes) {
    void* memory = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    const std::size_t head = (kHugePage - reinterpret_cast<std::uintptr_t>(memory) % kHugePage) % kHugePage;
    char* begin = static_cast<char*>(memory) + head;
    if (head > 0) munmap(memory, head);
    munmap(begin + bytes, kHugePage - head);  // not empty: head is less
    madvise(begin, bytes, MADV_HUGEPAGE);     // no more than a wish
    return begin;
  }
  static void unmap(void* memory, std::size_t bytes) { munmap(memory, bytes); }
#else
  static bool is_large(std::size_t) { return false; }
  static void* map(std::size_t) { return nullptr; }
  static void unmap(void*, std::size_t) {}
#endif
};

template <typename T>
using LargeVector = std::vector<T, LargeAllocator<T>>;

}  // namespace hanlin
