// Asks for memory that will be read soon, where the compiler knows how to.
#pragma once

namespace hanlin {

inline void prefetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(address);
#endif
}

}  // namespace hanlin
