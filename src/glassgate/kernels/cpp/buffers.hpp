// What Python hands over, as addresses: it stays where it is until the call is over.
//
// A buffer is None (a null pointer), an int (an address, as torch's data_ptr() gives it; the caller answers for what lies
// there) or any object with a contiguous buffer of exactly the size that the sizes ask for.
#pragma once

#include <cstdint>
#include <string>

#include <nanobind/nanobind.h>

namespace glassgate {

// The memory of an object that has a buffer; of None there is none.
class Buffer {
  public:
    Buffer() = default;
    Buffer(nanobind::handle object, std::int64_t bytes, const char* name, bool writable = false) {
        open(object, bytes, name, writable);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        if (held_) PyBuffer_Release(&view_);
    }
    void open(nanobind::handle object, std::int64_t bytes, const char* name, bool writable) {
        if (object.is_none()) return;
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) != 0)
            throw nanobind::python_error();
        held_ = true;
        if (view_.len != bytes)
            throw nanobind::value_error((std::string(name) + ": needs " + std::to_string(bytes) + " bytes, got " +
                                         std::to_string(view_.len)).c_str());
    }
    void* data() const { return held_ ? view_.buf : nullptr; }

  private:
    Py_buffer view_{};
    bool held_ = false;
};

// Opens the buffers of one call and keeps them open until it is over.
class Buffers {
  public:
    template <class S>
    const S* in(nanobind::handle object, std::int64_t count, const char* name, bool required = false) {
        return get<S>(object, count, name, false, required);
    }
    template <class S> S* out(nanobind::handle object, std::int64_t count, const char* name, bool required = false) {
        return get<S>(object, count, name, true, required);
    }

  private:
    template <class S>
    S* get(nanobind::handle object, std::int64_t count, const char* name, bool writable, bool required) {
        if (PyLong_Check(object.ptr())) {
            void* address = PyLong_AsVoidPtr(object.ptr());
            if (address == nullptr && PyErr_Occurred()) throw nanobind::python_error();
            return wanted<S>(address, count, name, required);
        }
        Buffer& buffer = buffers_[used_++];
        buffer.open(object, count * static_cast<std::int64_t>(sizeof(S)), name, writable);
        return wanted<S>(buffer.data(), count, name, required);
    }
    template <class S> static S* wanted(void* data, std::int64_t count, const char* name, bool required) {
        if (data == nullptr && required && count > 0)
            throw nanobind::value_error((std::string(name) + ": must not be None").c_str());
        return static_cast<S*>(data);
    }
    Buffer buffers_[32];
    int used_ = 0;
};

}  // namespace glassgate
