// What every part of the Python module needs: texts that come in, arrays that go out.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <string_view>
#include <utility>
#include <vector>

#include "text_batch.hpp"

namespace hanlin {

namespace nb = nanobind;
using namespace nb::literals;

// Each in a file of its own.
void bind_training(nb::module_& m);
void bind_encoding(nb::module_& m);
void bind_cleaning(nb::module_& m);
void bind_duplicates(nb::module_& m);

template <typename T>
using Array = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The bytes of a Python str (as UTF-8) or bytes object, which must outlive the view.
inline std::string_view view_of(nb::handle text) {
  if (PyUnicode_Check(text.ptr())) {
    Py_ssize_t size = 0;
    const char* data = PyUnicode_AsUTF8AndSize(text.ptr(), &size);
    if (data == nullptr) throw nb::python_error();
    return {data, static_cast<std::size_t>(size)};
  }
  char* data = nullptr;
  Py_ssize_t size = 0;
  if (PyBytes_AsStringAndSize(text.ptr(), &data, &size) != 0) throw nb::python_error();
  return {data, static_cast<std::size_t>(size)};
}

// Adds a Python str (as UTF-8) or bytes object to a batch; unlike `view_of`, leaves no copy with the str.
inline void append_copy(TextBatch& batch, nb::handle text) {
  if (!PyUnicode_Check(text.ptr())) return batch.append(view_of(text));
  const nb::object bytes = nb::steal(PyUnicode_AsUTF8String(text.ptr()));
  if (!bytes.is_valid()) throw nb::python_error();
  batch.append(view_of(bytes));
}

// Views of the items of a sequence, and the references that keep them alive while the GIL is released.
struct Texts {
  std::vector<nb::object> owners;
  std::vector<std::string_view> views;

  explicit Texts(nb::sequence texts) {
    for (nb::handle text : texts) {
      owners.push_back(nb::borrow(text));
      views.push_back(view_of(text));
    }
  }
};

template <typename T, typename Allocator>
nb::ndarray<nb::numpy, T, nb::ndim<1>> to_numpy(std::vector<T, Allocator>&& values) {
  using Values = std::vector<T, Allocator>;
  auto* owned = new Values(std::move(values));
  nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<Values*>(pointer); });
  return nb::ndarray<nb::numpy, T, nb::ndim<1>>(owned->data(), {owned->size()}, owner);
}

// The same as rows of `width` values.
template <typename T>
nb::ndarray<nb::numpy, T, nb::ndim<2>> to_rows(std::vector<T>&& values, std::size_t width) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return nb::ndarray<nb::numpy, T, nb::ndim<2>>(owned->data(), {owned->size() / width, width}, owner);
}

inline nb::bytes to_bytes(std::string_view text) { return nb::bytes(text.data(), text.size()); }

}  // namespace hanlin
