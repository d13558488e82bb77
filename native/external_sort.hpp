// Counted words that do not fit in memory: sorted runs on disk, merged into one stream when all of them are there.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "counter.hpp"

namespace hanlin {

class ExternalSort {
 public:
  // `folder` must exist and last. Whose it is removes the runs in it; until then another spill can adopt them, in another process too.
  explicit ExternalSort(std::string folder) : folder_(std::move(folder)) {}

  // Writes a table's words as a run. Throws std::runtime_error, with the system's reason, if that is not possible.
  void write(const WordTable& table);

  // Takes over another spill's runs, or those of an earlier process.
  void absorb(ExternalSort& other);
  void adopt(std::string run) { runs_.push_back(std::move(run)); }

  const std::vector<std::string>& runs() const { return runs_; }

  bool empty() const { return runs_.empty(); }

  // Calls visit(word, count) once for every distinct word of all runs and tables, in an order that only depends on the words.
  void each(const std::vector<WordTable>& tables, const std::function<void(std::string_view, std::int64_t)>& visit) const;

 private:
  std::string folder_;
  std::vector<std::string> runs_;
};

}  // namespace hanlin
