#include "key_file.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace hanlin {

namespace {

constexpr std::uint64_t kEnd = ~std::uint64_t{0};  // where the next run's first size would be
constexpr std::size_t kRecordBytes = sizeof(std::uint64_t) + sizeof(std::uint32_t);
constexpr unsigned kTieBits = 20;

template <typename T>
std::string_view bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Groups of equal `key >> shift` in sorted records.
template <typename Visit>
void each_group(std::span<KeyRecord> records, unsigned shift, const Visit& visit) {
  for (std::size_t begin = 0, end = 0; begin < records.size(); begin = end) {
    const std::uint64_t key = records[begin].key >> shift;
    while (end < records.size() && records[end].key >> shift == key) ++end;
    visit(records.subspan(begin, end - begin));
  }
}

}  // namespace

KeyWriter::KeyWriter(std::string path, std::size_t memory)
    : file_(std::move(path)), most_(std::max<std::size_t>(memory / (2 * kRecordBytes), kKeyPartitions * 128)) {}  // 2: as vectors grow

void KeyWriter::add_bands(std::span<const std::uint32_t> signature, std::size_t rows, std::uint32_t document) {
  bands_.clear();
  for (std::size_t begin = 0; begin + rows <= signature.size(); begin += rows) {
    std::uint64_t hash = 0x9E3779B97F4A7C15ull * (begin + 1);
    for (const std::uint32_t value : signature.subspan(begin, rows)) {
      hash = (hash ^ value) * 0xBF58476D1CE4E5B9ull;
      hash ^= hash >> 31;
    }
    bands_.push_back(hash * 0x94D049BB133111EBull);
  }
  for (std::size_t band = 0; band < bands_.size(); ++band) {
    const std::uint64_t next = bands_[(band + 1) % bands_.size()];
    add(bands_[band] >> kTieBits << kTieBits | next >> (64 - kTieBits), document);
  }
}

void KeyWriter::flush() {
  for (const Partition& partition : partitions_) file_.put({partition.keys.size()});
  for (Partition& partition : partitions_) {
    file_.put(bytes_of(partition.keys));
    file_.put(bytes_of(partition.documents));
    partition.keys.clear();
    partition.documents.clear();
  }
  waiting_ = 0;
}

void KeyWriter::close() {
  if (waiting_ > 0) flush();
  file_.put({kEnd});
  file_.close();
}

KeyReader::KeyReader(std::vector<File> files) : files_(std::move(files)) {
  for (std::size_t index = 0; index < files_.size(); ++index) {
    FileReader file(files_[index].path);
    std::uint64_t place = 0;
    while (true) {
      Run run{index, 0, {}};
      file.get_bytes(run.sizes.data(), sizeof(std::uint64_t));
      if (run.sizes[0] == kEnd) break;
      file.get_bytes(run.sizes.data() + 1, sizeof(run.sizes) - sizeof(std::uint64_t));
      run.begin = place += sizeof(run.sizes);
      for (std::size_t partition = 0; partition < kKeyPartitions; ++partition) {
        sizes_[partition] += run.sizes[partition];
        place += run.sizes[partition] * kRecordBytes;
      }
      runs_.push_back(run);
      file.seek(place);
    }
  }
}

std::vector<KeyRecord> KeyReader::read(std::uint64_t first, std::uint64_t last, std::span<const std::uint8_t> gone) const {
  std::vector<KeyRecord> records;
  std::vector<std::uint64_t> keys;
  std::vector<std::uint32_t> documents;
  std::size_t index = 0;
  for (const File& from : files_) {
    FileReader file(from.path);
    for (; index < runs_.size() && files_[runs_[index].file].path == from.path; ++index) {
      std::uint64_t place = runs_[index].begin;
      bool there = false;
      for (std::size_t partition = 0; partition <= last >> 56; ++partition) {
        const std::size_t size = runs_[index].sizes[partition];
        if (partition >= first >> 56 && size > 0) {
          if (!std::exchange(there, true)) file.seek(place);  // from there on the sections follow one another
          keys.resize(size);
          documents.resize(size);
          file.get_bytes(keys.data(), size * sizeof(std::uint64_t));
          file.get_bytes(documents.data(), size * sizeof(std::uint32_t));
          for (std::size_t item = 0; item < size; ++item) {
            const std::uint32_t document = documents[item] + from.first_document;
            if (keys[item] < first || keys[item] > last || (document < gone.size() && gone[document] != 0)) continue;
            records.push_back({keys[item], document});
          }
        }
        place += size * kRecordBytes;
      }
    }
  }
  return records;
}

// From the lowest digit of eleven bits to the highest; digits that all records share are passed over.
void sort_by_key(std::vector<KeyRecord>& records, unsigned shift) {
  constexpr unsigned kDigit = 11;
  std::vector<KeyRecord> other(records.size());
  for (unsigned low = shift; low < 64; low += kDigit) {
    const auto digit = [low](const KeyRecord& record) { return static_cast<std::size_t>(record.key >> low & ((1u << kDigit) - 1)); };
    std::vector<std::size_t> begins(1u << kDigit);
    for (const KeyRecord& record : records) ++begins[digit(record)];
    if (std::find(begins.begin(), begins.end(), records.size()) != begins.end()) continue;
    std::size_t begin = 0;
    for (std::size_t& count : begins) begin += std::exchange(count, begin);
    for (const KeyRecord& record : records) other[begins[digit(record)]++] = record;
    records.swap(other);
  }
}

void each_pair(std::vector<KeyRecord> records, Width width, std::size_t most, const std::function<void(std::vector<std::uint64_t>&&)>& visit) {
  sort_by_key(records, kTieBits);
  std::vector<std::uint64_t> pairs;
  const auto hand_over = [&](std::size_t enough) {
    if (pairs.size() < enough) return;
    std::sort(pairs.begin(), pairs.end());
    pairs.erase(std::unique(pairs.begin(), pairs.end()), pairs.end());
    visit(std::exchange(pairs, {}));
  };
  const auto pair = [&](std::uint32_t one, std::uint32_t other) {
    if (one != other) pairs.push_back(std::uint64_t{std::max(one, other)} << 32 | std::min(one, other));
  };
  each_group(records, kTieBits, [&](std::span<KeyRecord> group) {
    if (group.size() == 1) return;
    const bool wide = group.size() > width.earliest + width.neighbours + 1;
    for (std::size_t later = 1; later < group.size(); ++later) {
      const std::size_t count = wide ? std::min(later, width.earliest) : later;
      for (std::size_t early = 0; early < count; ++early) pair(group[later].document, group[early].document);
      hand_over(most);
    }
    if (wide) {
      std::stable_sort(group.begin(), group.end(), [](const KeyRecord& a, const KeyRecord& b) { return a.key < b.key; });
      for (std::size_t place = 1; place < group.size(); ++place) {
        for (std::size_t back = 1; back <= std::min(place, width.neighbours); ++back) pair(group[place].document, group[place - back].document);
        hand_over(most);
      }
    }
  });
  hand_over(0);
}

void common_keys(std::vector<KeyRecord> records, std::size_t least, std::vector<std::uint64_t>& keys, std::vector<std::uint64_t>& counts) {
  sort_by_key(records, 0);
  each_group(records, 0, [&](std::span<KeyRecord> group) {
    std::size_t count = 1;
    for (std::size_t index = 1; index < group.size(); ++index) count += group[index].document != group[index - 1].document;
    if (count < least) return;
    keys.push_back(group[0].key);
    counts.push_back(count);
  });
}

}  // namespace hanlin
