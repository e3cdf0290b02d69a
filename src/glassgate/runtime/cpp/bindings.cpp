// The functions of rows.hpp for Python: buffers of whatever holds memory, their sizes checked.
#include "rows.hpp"

#include <string>

#include <nanobind/nanobind.h>

namespace nb = nanobind;
using namespace nb::literals;
using namespace glassgate::runtime;

namespace {

class Buffer {
  public:
    Buffer(nb::handle object, Index bytes, const char* name, bool writable = false) {
        if (object.is_none()) return;
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_C_CONTIGUOUS | (writable ? PyBUF_WRITABLE : 0)) != 0)
            throw nb::python_error();
        held_ = true;
        if (view_.len != bytes)
            throw nb::value_error((std::string(name) + ": needs " + std::to_string(bytes) + " bytes, got " +
                                   std::to_string(view_.len)).c_str());
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        if (held_) PyBuffer_Release(&view_);
    }
    void* data() const { return held_ ? view_.buf : nullptr; }

  private:
    Py_buffer view_{};
    bool held_ = false;
};

void product(int form, Index rows, Index width, nb::handle V, nb::handle scales, nb::handle c, nb::handle h, nb::handle y) {
    constexpr Index stored[] = {4, 8, 2, 1}, sums[] = {4, 8, 4, 4};
    if (form < 0 || form > 3 || rows < 0 || width < 0 || (rows > 0 && width > (Index(1) << 40) / rows))
        throw nb::value_error("form, rows, width: out of bounds");
    if (V.is_none() || h.is_none() || y.is_none() || scales.is_none() == (form == 3))
        throw nb::value_error("V, h and y must not be None; scales belong to int8, and to it alone");
    const Buffer matrix(V, rows * width * stored[form], "V"), steps(scales, rows * 4, "scales");
    const Buffer bias(c, rows * sums[form], "c"), vector(h, width * sums[form], "h"), out(y, rows * sums[form], "y", true);
    nb::gil_scoped_release unlocked;
    auto* const run = form == 0 ? product_single : form == 1 ? product_double : form == 2 ? product_bf16 : product_int8;
    run(rows, width, matrix.data(), static_cast<const float*>(steps.data()), bias.data(), vector.data(), out.data());
}

void best(Index rows, Index entries, Index words, Index k, Index never, bool doubles, nb::handle allowed, nb::handle logits,
          nb::handle most, nb::handle log_sum, nb::handle values, nb::handle places) {
    constexpr Index top = Index(1) << 40;
    if (rows < 0 || entries < 1 || entries > top || rows > top / entries || words < 0 || words > entries || k < 1 ||
        k > top / (rows + 1))
        throw nb::value_error("rows, entries, words, k: out of bounds");
    const Index size = doubles ? 8 : 4, count = allowed.is_none() ? 0 : PyObject_Length(allowed.ptr());
    if (count < 0) throw nb::python_error();
    const Buffer may(allowed, count * 8, "allowed"), z(logits, rows * entries * size, "logits");
    const Buffer m(most, rows * size, "most", true), s(log_sum, rows * size, "log_sum", true);
    const Buffer v(values, rows * k * size, "values", true), p(places, rows * k * 8, "places", true);
    const Choice choice{rows, entries, words, k, never, count, static_cast<const Index*>(may.data())};
    for (Index i = 0; i < count; ++i)
        if (choice.allowed[i] < 0 || choice.allowed[i] >= words) throw nb::value_error("allowed: out of bounds");
    nb::gil_scoped_release unlocked;
    auto* const numbers = static_cast<Index*>(p.data());
    if (doubles)
        best_double(choice, static_cast<const double*>(z.data()), static_cast<double*>(m.data()),
                    static_cast<double*>(s.data()), static_cast<double*>(v.data()), numbers);
    else
        best_single(choice, static_cast<const float*>(z.data()), static_cast<float*>(m.data()), static_cast<float*>(s.data()),
                    static_cast<float*>(v.data()), numbers);
}

void highest(Index rows, Index width, Index count, nb::handle integers, nb::handle scales, nb::handle errors,
             nb::handle lengths, nb::handle c, nb::handle h, nb::handle result) {
    constexpr Index top = Index(1) << 40;
    if (rows < 1 || width < 1 || count < 0 || width > (Index(1) << 24) || rows > top / width || count > top / width)
        throw nb::value_error("rows, width, count: out of bounds");
    const Buffer q(integers, rows * width, "integers"), s(scales, rows * 4, "scales"), e(errors, rows * 4, "errors");
    const Buffer n(lengths, rows * 4, "lengths"), bias(c, rows * 4, "c"), vectors(h, count * width * 4, "h");
    const Buffer out(result, count * 4, "result", true);
    const auto numbers = [](const Buffer& buffer) { return static_cast<const float*>(buffer.data()); };
    const Sketch sketch{rows, width, static_cast<const std::int8_t*>(q.data()), numbers(s), numbers(e), numbers(n), numbers(bias)};
    nb::gil_scoped_release unlocked;
    highest_log_shares(sketch, count, numbers(vectors), static_cast<float*>(out.data()));
}

}  // namespace

NB_MODULE(_rows, module) {
    module.def("product", &product, "form"_a, "rows"_a, "width"_a, "V"_a, "scales"_a.none(), "c"_a.none(), "h"_a, "y"_a);
    module.def("best", &best, "rows"_a, "entries"_a, "words"_a, "k"_a, "never"_a, "doubles"_a, "allowed"_a.none(), "logits"_a,
               "most"_a, "log_sum"_a, "values"_a, "places"_a);
    module.def("highest", &highest, "rows"_a, "width"_a, "count"_a, "integers"_a, "scales"_a, "errors"_a, "lengths"_a,
               "c"_a.none(), "h"_a, "result"_a);
}
