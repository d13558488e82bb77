// Vectors for hundreds of megabytes. Growing one by resize() does not touch its memory, so that whoever fills it is the first to, on
// several threads if need be; and large ones ask for huge pages, without which the first touch of a page and the search for its
// address take longer than the work on it (measured here: 1 against 20 GB/s).
#pragma once

#include <cstddef>
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
    std::size_t bytes = size * sizeof(T);
    void* memory = nullptr;
#if defined(__linux__)
    if (bytes >= 2 * kHugePage) {
      bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
      memory = std::aligned_alloc(kHugePage, bytes);
      if (memory != nullptr) madvise(memory, bytes, MADV_HUGEPAGE);  // no more than a wish
    } else {
      memory = std::malloc(bytes);
    }
#else
    memory = std::malloc(bytes);
#endif
    if (memory == nullptr) throw std::bad_alloc();
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }

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
};

template <typename T>
using LargeVector = std::vector<T, LargeAllocator<T>>;

}  // namespace hanlin
