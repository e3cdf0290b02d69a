// The functions of rows.hpp for Python: buffers of whatever holds memory, their sizes checked.
#include "buffers.hpp"
#include "output.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace glassgate::runtime;
using glassgate::Buffer;

namespace {

constexpr Index top = Index(1) << 40;
constexpr Index stored_bytes[] = {4, 8, 2, 1}, sum_bytes[] = {4, 8, 4, 4};

void check_matrix(int form, Index rows, Index width, nb::handle V, nb::handle scales) {
    if (form < 0 || form > 3 || rows < 0 || width < 1 || width > (Index(1) << 24) || rows > top / width)
        throw nb::value_error("form, rows, width: out of bounds");
    if (V.is_none() || scales.is_none() == (form == 3))
        throw nb::value_error("V must not be None; scales belong to int8, and to it alone");
}

void product(int form, Index rows, Index width, nb::handle V, nb::handle scales, nb::handle c, nb::handle h, nb::handle y) {
    check_matrix(form, rows, width, V, scales);
    if (h.is_none() || y.is_none()) throw nb::value_error("h and y must not be None");
    const Buffer values(V, rows * width * stored_bytes[form], "V"), steps(scales, rows * 4, "scales");
    const Buffer bias(c, rows * sum_bytes[form], "c"), vector(h, width * sum_bytes[form], "h");
    const Buffer out(y, rows * sum_bytes[form], "y", true);
    const Matrix matrix{Form(form), rows, width, values.data(), static_cast<const float*>(steps.data())};
    nb::gil_scoped_release unlocked;
    products(matrix, bias.data(), 1, vector.data(), out.data());
}

bool log_softmax_in_place(Index rows, Index entries, bool twice, nb::handle z) {
    if (rows < 0 || entries < 1 || entries > top || rows > top / entries || z.is_none())
        throw nb::value_error("rows, entries, z: out of bounds");
    const Buffer logits(z, rows * entries * (twice ? 8 : 4), "z", true);
    nb::gil_scoped_release unlocked;
    return twice ? log_softmax(rows, entries, static_cast<double*>(logits.data()))
                 : log_softmax(rows, entries, static_cast<float*>(logits.data()));
}

Index length_of(nb::handle object) {
    if (object.is_none()) return 0;
    const Index length = PyObject_Length(object.ptr());
    if (length < 0) throw nb::python_error();
    return length;
}

// The buffers of a model's output, held as long as they are in use.
class Held {
  public:
    Held(int form, Index words, Index width, nb::handle bounds, nb::handle V, nb::handle scales, nb::handle c, nb::handle entries,
         nb::handle entry_biases)
        : width_((check_matrix(form, words, width, V, scales), width)), size_(sum_bytes[form]),
          clusters_(length_of(bounds) - 2), bounds_(bounds, (clusters_ + 2) * 8, "bounds"),
          V_(V, words * width * stored_bytes[form], "V"), scales_(scales, words * 4, "scales"), c_(c, words * size_, "c"),
          entries_(entries, clusters_ * width * size_, "entries"), biases_(entry_biases, clusters_ * size_, "entry_biases"),
          words_(words), output_(layout(Form(form))) {}

    Index best(Index count, Index k, Index never, Index threads, nb::handle allowed, nb::handle h, nb::handle numbers,
               nb::handle logs) {
        if (count < 1 || count > top / width_ || k < 1 || k > top / count || threads < 1 || threads > 1024)
            throw nb::value_error("count, k, threads: out of bounds");
        if (h.is_none() || numbers.is_none() || logs.is_none()) throw nb::value_error("h, numbers, logs must not be None");
        const Index some = length_of(allowed);
        const Buffer may(allowed, some * 8, "allowed"), x(h, count * width_ * size_, "h");
        const Buffer places(numbers, count * k * 8, "numbers", true), values(logs, count * k * 8, "logs", true);
        const auto* const list = static_cast<const Index*>(may.data());
        for (Index i = 0; i < some; ++i)
            if (list[i] < (i == 0 ? 0 : list[i - 1] + 1) || list[i] >= words_) throw nb::value_error("allowed: out of bounds");
        nb::gil_scoped_release unlocked;
        return output_.best({k, never, some, allowed.is_none() ? nullptr : list}, count, x.data(), threads,
                            static_cast<Index*>(places.data()), static_cast<double*>(values.data()));
    }

  private:
    Layout layout(Form form) const {
        const auto* const from = static_cast<const Index*>(bounds_.data());
        if (clusters_ < 0 || (clusters_ > 0) == (entries_.data() == nullptr)) throw nb::value_error("bounds, entries: out of bounds");
        std::vector<Index> bounds(from, from + clusters_ + 2);
        for (Index i = 0; i <= clusters_; ++i)
            if (bounds[i] >= bounds[i + 1]) throw nb::value_error("bounds: must rise, out of bounds");
        if (bounds.front() != 0 || bounds.back() != words_) throw nb::value_error("bounds: out of bounds");
        const Matrix V{form, words_, width_, V_.data(), static_cast<const float*>(scales_.data())};
        return {V, c_.data(), bounds, entries_.data(), biases_.data()};
    }

    Index width_, size_, clusters_;
    Buffer bounds_, V_, scales_, c_, entries_, biases_;
    Index words_;
    Output output_;
};

}  // namespace

NB_MODULE(_rows, module) {
    module.def("product", &product, "form"_a, "rows"_a, "width"_a, "V"_a, "scales"_a.none(), "c"_a.none(), "h"_a, "y"_a);
    module.def("log_softmax", &log_softmax_in_place, "rows"_a, "entries"_a, "twice"_a, "z"_a);
    nb::class_<Held>(module, "Output")
        .def(nb::init<int, Index, Index, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle, nb::handle>(), "form"_a,
             "words"_a, "width"_a, "bounds"_a, "V"_a, "scales"_a.none(), "c"_a.none(), "entries"_a.none(),
             "entry_biases"_a.none())
        .def("best", &Held::best, "count"_a, "k"_a, "never"_a, "threads"_a, "allowed"_a.none(), "h"_a, "numbers"_a, "logs"_a);
}
