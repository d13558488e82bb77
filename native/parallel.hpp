// Runs the parts of a task at the same time.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace hanlin {

// Calls part(0, stop) … part(threads - 1, stop), each on a thread of its own and the first on the caller's, and returns when all have
// ended. When one throws, `stop` becomes true, which long parts look at now and then; what the first one threw is thrown again.
template <typename Part>
void in_parallel(std::size_t threads, Part&& part) {
  std::atomic<bool> stop{false};
  std::exception_ptr error;
  const auto run = [&](std::size_t index) noexcept {
    try {
      part(index, static_cast<const std::atomic<bool>&>(stop));
    } catch (...) {
      if (!stop.exchange(true)) error = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  others.reserve(threads);
  for (std::size_t index = 1; index < threads; ++index) {
    try {
      others.emplace_back(run, index);
    } catch (const std::system_error&) {  // no more threads to be had
      run(index);
    }
  }
  run(0);
  for (std::thread& other : others) other.join();
  if (error) std::rethrow_exception(error);
}

// Where part `index` of `parts` about equal ones begins; that of part `parts` is the end.
inline std::size_t begin_of_part(std::size_t size, std::size_t index, std::size_t parts) {
  return size / parts * index + size % parts * index / parts;
}

}  // namespace hanlin
