// Counted words that do not fit in memory: sorted runs on disk, merged into one stream when all of them are there.
#pragma once

#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "counter.hpp"

namespace hanlin {

class Spill {
 public:
  // `folder` must exist and last; the files in it are removed with the spill.
  explicit Spill(std::string folder) : folder_(std::move(folder)) {}
  ~Spill();
  Spill(const Spill&) = delete;
  Spill& operator=(const Spill&) = delete;

  // Writes a table's words as a run. Throws std::runtime_error, with the system's reason, if that is not possible.
  void write(const WordTable& table);

  // Takes over another spill's runs.
  void absorb(Spill& other);

  bool empty() const { return runs_.empty(); }

  // Calls visit(word, count) once for every distinct word of all runs and the table, in an order that only depends on the words.
  void each(const WordTable& table, const std::function<void(std::string_view, std::int64_t)>& visit) const;

 private:
  std::string folder_;
  std::vector<std::string> runs_;
};

}  // namespace hanlin
