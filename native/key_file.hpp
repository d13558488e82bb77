// 64-bit keys of documents on disk, to find the documents that share one, in as little memory as is given.
//
// A writer collects records (key, document) by the upper eight bits of the key and appends what it has to its file whenever its memory is
// full. A reader takes the files of many writers as one, and hands out the records of any range of keys.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "file.hpp"

namespace hanlin {

inline constexpr std::size_t kKeyPartitions = 256;

struct KeyRecord {
  std::uint64_t key;
  std::uint32_t document;
};

class KeyWriter {
 public:
  // `memory` in bytes, of records that wait; 0.8 MB at least.
  KeyWriter(std::string path, std::size_t memory);

  // Documents must come in ascending order. Throws std::runtime_error if the file cannot be written.
  void add(std::uint64_t key, std::uint32_t document) {
    Partition& partition = partitions_[key >> 56];
    partition.keys.push_back(key);
    partition.documents.push_back(document);
    if (++waiting_ == most_) flush();
  }

  // The keys of the bands of a signature: what `rows` values hash to in 44 bits, and in the other 20 the beginning of the next band's.
  void add_bands(std::span<const std::uint32_t> signature, std::size_t rows, std::uint32_t document);

  void close();

 private:
  struct Partition {
    std::vector<std::uint64_t> keys;
    std::vector<std::uint32_t> documents;
  };
  void flush();

  FileWriter file_;
  std::size_t most_, waiting_ = 0;
  std::array<Partition, kKeyPartitions> partitions_;
  std::vector<std::uint64_t> bands_;
};

class KeyReader {
 public:
  struct File {
    std::string path;
    std::uint32_t first_document;  // added to the numbers in the file
  };

  // Files in ascending order of documents; throws std::runtime_error if one cannot be read or was cut short.
  explicit KeyReader(std::vector<File> files);

  // Records in each partition.
  const std::array<std::uint64_t, kKeyPartitions>& sizes() const { return sizes_; }

  // Records with first <= key <= last, but for documents d with gone[d] != 0, documents of equal key ascending.
  // Documents past the end of `gone` are not gone.
  std::vector<KeyRecord> read(std::uint64_t first, std::uint64_t last, std::span<const std::uint8_t> gone) const;

 private:
  struct Run {
    std::size_t file;
    std::uint64_t begin;  // of its sections in the file
    std::array<std::uint64_t, kKeyPartitions> sizes;
  };
  std::vector<File> files_;
  std::vector<Run> runs_;
  std::array<std::uint64_t, kKeyPartitions> sizes_{};
};

// Sorts by `key >> shift`; what is equal stays in its order.
void sort_by_key(std::vector<KeyRecord>& records, unsigned shift);

// How many members of a wide group a document is paired with: so many of the earliest, and so many before it in the order of ties.
struct Width {
  std::size_t earliest, neighbours;
};

// Pairs (later document << 32 | earlier one) of documents that share the upper 44 bits of a key. In a group of more than
// earliest + neighbours + 1 members not everyone is paired with everyone, but with the earliest, and with those next to it once the group
// is sorted by the lower 20 bits, which in keys of bands bring together those that share another band.
//
// Calls visit with ascending pairs, each once, whenever `most` of them or a few more are there, and at the end.
void each_pair(std::vector<KeyRecord> records, Width width, std::size_t most, const std::function<void(std::vector<std::uint64_t>&&)>& visit);

// Keys that at least `least` documents share, ascending, and how many do.
void common_keys(std::vector<KeyRecord> records, std::size_t least, std::vector<std::uint64_t>& keys, std::vector<std::uint64_t>& counts);

}  // namespace hanlin
