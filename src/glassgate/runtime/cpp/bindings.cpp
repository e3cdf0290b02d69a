// The functions of rows.hpp for Python: buffers of whatever holds memory, their sizes checked.
#include "buffers.hpp"
#include "output.hpp"

#include <algorithm>
#include <memory>

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

void product(int form, Index rows, Index width, nb::handle V, nb::handle scales, nb::handle c, Index count, nb::handle h,
             nb::handle y) {
    check_matrix(form, rows, width, V, scales);
    if (count < 0 || count > top / std::max(rows, width)) throw nb::value_error("count: out of bounds");
    if (h.is_none() || y.is_none()) throw nb::value_error("h and y must not be None");
    const Buffer values(V, rows * width * stored_bytes[form], "V"), steps(scales, rows * 4, "scales");
    const Buffer bias(c, rows * sum_bytes[form], "c"), vectors(h, count * width * sum_bytes[form], "h");
    const Buffer out(y, count * rows * sum_bytes[form], "y", true);
    const Matrix matrix{Form(form), rows, width, values.data(), static_cast<const float*>(steps.data())};
    nb::gil_scoped_release unlocked;
    products(matrix, bias.data(), count, vectors.data(), out.data());
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

// A piece of V, as Python tells of it: its form, its rows and width, its values and scales.
struct Piece {
    Piece(nb::tuple told) {
        if (told.size() != 5) throw nb::value_error("pieces: five things each");
        const int form = nb::cast<int>(told[0]);
        const auto rows = nb::cast<Index>(told[1]), width = nb::cast<Index>(told[2]);
        check_matrix(form, rows, width, told[3], told[4]);
        values_.open(told[3], rows * width * stored_bytes[form], "V", false);
        scales_.open(told[4], rows * 4, "scales", false);
        V = {Form(form), rows, width, values_.data(), static_cast<const float*>(scales_.data())};
    }
    Index size() const { return sum_bytes[V.form]; }  // bytes of a number that is computed
    Matrix V;

  private:
    Buffer values_, scales_;
};

// The buffers of a model's output, held as long as they are in use.
class Held {
  public:
    Held(nb::handle bounds, nb::list pieces, nb::handle c, nb::handle entries, nb::handle entry_biases)
        : pieces_(opened(pieces)), size_(pieces_[0]->size()), clusters_(length_of(bounds) - 2),
          bounds_(bounds, (clusters_ + 2) * 8, "bounds"), c_(c, words() * size_, "c"),
          entries_(entries, clusters_ * pieces_[0]->V.width * size_, "entries"),
          biases_(entry_biases, clusters_ * size_, "entry_biases"), output_(layout()) {}

    void turn(Index piece, Index kept, nb::handle T, nb::handle inverse) {
        if (piece < 0 || piece >= Index(pieces_.size())) throw nb::value_error("piece: out of bounds");
        const Index width = pieces_[piece]->V.width;
        if (kept < 1 || kept > width) throw nb::value_error("kept: out of bounds");
        const Buffer there(T, width * width * 4, "T"), back(inverse, width * width * 4, "inverse");
        const auto* const to = static_cast<const float*>(there.data());
        const auto* const from = static_cast<const float*>(back.data());
        nb::gil_scoped_release unlocked;
        output_.turn(piece, std::make_unique<const Turn>(width, kept, to, from));
    }

    Index best(Index count, Index k, Index never, Index threads, nb::handle allowed, nb::list h, nb::handle numbers,
               nb::handle logs) {
        if (count < 1 || k < 1 || k > top / count || threads < 1 || threads > 1024)
            throw nb::value_error("count, k, threads: out of bounds");
        if (numbers.is_none() || logs.is_none()) throw nb::value_error("numbers, logs must not be None");
        if (h.size() != pieces_.size()) throw nb::value_error("h: one for each piece");
        const Index some = length_of(allowed);
        const Buffer may(allowed, some * 8, "allowed");
        std::vector<std::unique_ptr<Buffer>> features;
        std::vector<const void*> x;
        for (std::size_t i = 0; i < pieces_.size(); ++i) {
            const Index width = pieces_[i]->V.width;
            if (count > top / width || h[i].is_none()) throw nb::value_error("count, h: out of bounds");
            features.push_back(std::make_unique<Buffer>(h[i], count * width * size_, "h"));
            x.push_back(features.back()->data());
        }
        const Buffer places(numbers, count * k * 8, "numbers", true), values(logs, count * k * 8, "logs", true);
        const auto* const list = static_cast<const Index*>(may.data());
        const Index most = words();
        for (Index i = 0; i < some; ++i)
            if (list[i] < (i == 0 ? 0 : list[i - 1] + 1) || list[i] >= most) throw nb::value_error("allowed: out of bounds");
        nb::gil_scoped_release unlocked;
        return output_.best({k, never, some, allowed.is_none() ? nullptr : list}, count, x, threads,
                            static_cast<Index*>(places.data()), static_cast<double*>(values.data()));
    }

  private:
    using Pieces = std::vector<std::unique_ptr<Piece>>;

    static Pieces opened(nb::list told) {
        Pieces pieces;
        for (nb::handle piece : told) {
            pieces.push_back(std::make_unique<Piece>(nb::cast<nb::tuple>(piece)));
            if (pieces.back()->size() != pieces[0]->size()) throw nb::value_error("pieces: float or double, not both");
        }
        if (pieces.empty()) throw nb::value_error("pieces: out of bounds");
        return pieces;
    }
    Index words() const {
        Index rows = 0;
        for (const auto& piece : pieces_) rows += piece->V.rows;
        return rows;
    }
    Layout layout() const {
        const auto* const from = static_cast<const Index*>(bounds_.data());
        if (clusters_ < 0 || (clusters_ > 0) == (entries_.data() == nullptr)) throw nb::value_error("bounds, entries: out of bounds");
        std::vector<Index> bounds(from, from + clusters_ + 2);
        for (Index i = 0; i <= clusters_; ++i)
            if (bounds[i] >= bounds[i + 1]) throw nb::value_error("bounds: must rise, out of bounds");
        if (bounds.front() != 0 || bounds.back() != words()) throw nb::value_error("bounds: out of bounds");
        std::vector<Layout::Part> parts;
        Index start = 0, piece = 0;
        for (Index i = 0; i <= clusters_; ++i) {
            while (bounds[i] - start >= pieces_[piece]->V.rows) start += pieces_[piece++]->V.rows;
            const Matrix& V = pieces_[piece]->V;
            if (bounds[i + 1] - start > V.rows) throw nb::value_error("bounds: a part of two pieces, out of bounds");
            parts.push_back({V.part(bounds[i] - start, bounds[i + 1] - start), piece});
        }
        if (parts[0].piece != 0) throw nb::value_error("pieces: the first is empty, out of bounds");
        return {parts, c_.data(), bounds, entries_.data(), biases_.data()};
    }

    Pieces pieces_;
    Index size_, clusters_;
    Buffer bounds_, c_, entries_, biases_;
    Output output_;
};

}  // namespace

NB_MODULE(_rows, module) {
    module.def("product", &product, "form"_a, "rows"_a, "width"_a, "V"_a, "scales"_a.none(), "c"_a.none(), "count"_a,
               "h"_a, "y"_a);
    module.def("log_softmax", &log_softmax_in_place, "rows"_a, "entries"_a, "twice"_a, "z"_a);
    nb::class_<Held>(module, "Output")
        .def(nb::init<nb::handle, nb::list, nb::handle, nb::handle, nb::handle>(), "bounds"_a, "pieces"_a, "c"_a.none(),
             "entries"_a.none(), "entry_biases"_a.none())
        .def("turn", &Held::turn, "piece"_a, "kept"_a, "T"_a, "inverse"_a)
        .def("best", &Held::best, "count"_a, "k"_a, "never"_a, "threads"_a, "allowed"_a.none(), "h"_a, "numbers"_a, "logs"_a);
}
