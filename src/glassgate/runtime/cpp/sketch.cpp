// With z_j the logits, s_j those of the sketch and |z_j - s_j| <= e_j:
//
//     log max_j y_j  =  max_j z_j - log(sum_j exp(z_j))  <=  max_j (s_j + e_j) - log(sum_j exp(s_j - e_j))
//
// Where that is not enough, the exact z_j of the few rows whose s_j + e_j could win take the place of the maximum (output.cpp):
// what is then left of the bound's slack is that of the sum.
//
// e_j is the row's own error times |h| (Cauchy and Schwarz), what rounding h to 16 bits adds, and what float32 may round.
#include "sketch.hpp"

#include "integers.hpp"
#include "softmax.hpp"

#include <optional>

namespace glassgate::runtime {

namespace {

constexpr float ulp = 1.2e-7f;     // more than twice float32's rounding
constexpr double room = 1 + 1e-5;  // for what the norms round
constexpr Index largest = 127;

// What a row of V says exactly, and its nearest whole numbers.
template <class T> double exactly(const Matrix& V, Index at) { return double(static_cast<const T*>(V.values)[at]); }
double number(const Matrix& V, Index row, Index j) {
    const Index at = row * V.width + j;
    switch (V.form) {
        case single: return exactly<float>(V, at);
        case doubles: return exactly<double>(V, at);
        case int8: return double(V.scales[row]) * exactly<std::int8_t>(V, at);
        default: break;
    }
    const std::uint32_t bits = std::uint32_t(static_cast<const std::uint16_t*>(V.values)[at]) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE std::int8_t whole(double value) {  // what is no number becomes one, and its error none
    const double bound = value > -largest ? value < largest ? value : largest : -largest;
    return std::int8_t(std::nearbyint(bound));
}

std::int16_t* aligned(std::vector<std::int16_t>& memory, Index size) {
    if (Index(memory.size()) < size + lanes16) memory.resize(size + lanes16);
    const auto past = reinterpret_cast<std::uintptr_t>(memory.data()) / sizeof(std::int16_t) % lanes16;
    return memory.data() + (lanes16 - past);
}

// What is known of one h in one block, beside the sums of products.
struct Rows {
    Index start, count;
    const float *scales, *errors, *lengths, *rests, *c;
    float unit, length, others, rest;
};
// max_j (s_j + e_j), and log(sum_j exp(s_j - e_j)) as a shift and a sum.
struct Seen {
    float most = -std::numeric_limits<float>::infinity(), shift = -std::numeric_limits<float>::infinity();
    double sum = 0;
};

FOR_EACH_MACHINE void see(Seen& seen, const Rows& rows, const std::int32_t* sums, float* highs) {
    using V = Vec<float>;
    constexpr Index lanes = width<float>;
    const V nothing{}, unit = broadcast<float>(rows.unit), length = broadcast<float>(rows.length);
    const V others = broadcast<float>(rows.others), rest = broadcast<float>(rows.rest);
    float low[block];
    V most = broadcast<float>(seen.most);
    for (Index i = 0; i < rows.count; i += lanes) {
        const Index r = rows.start + i, count = std::min(lanes, rows.count - i);
        kernels::GG_ISA::Mask<float> products;
        std::memcpy(&products, sums + i, sizeof products);
        const V c = rows.c == nullptr ? nothing : load(rows.c + r, count);
        const V s = __builtin_convertvector(products, V) * (unit * load(rows.scales + r, count)) + c;
        const V left_out = rows.rests == nullptr ? nothing : load(rows.rests + r, count) * rest;
        const V error = load(rows.errors + r, count) * length + load(rows.lengths + r, count) * others + left_out +
                        4 * ulp * (c < nothing ? -c : c);
        kernels::GG_ISA::store(low + i, s - error);
        V high = s + error;
        kernels::GG_ISA::store(highs + i, high, count);
        for (Index lane = count; lane < lanes; ++lane) high[lane] = seen.most;
        most = larger<float>(most, high);
    }
    for (Index lane = 0; lane < lanes; ++lane) seen.most = std::max(seen.most, most[lane]);
    const float shift = std::max(seen.shift, maximum(low, rows.count));
    if (shift != seen.shift) seen.sum *= std::exp(seen.shift - shift);
    seen.sum += sum_of_exponentials(low, rows.count, shift);
    seen.shift = shift;
}

}  // namespace

Turn::Turn(Index width, Index kept, const float* T, const float* inverse)
    : width(width), kept(kept), of_V(width * width), of_h(inverse, inverse + width * width) {
    double V_squares = 0, h_squares = 0, lack = 0;
    std::vector<double> one(width);  // a row of T T' - 1
    for (Index i = 0; i < width; ++i) {
        std::fill(one.begin(), one.end(), 0.0);
        one[i] = -1;
        for (Index k = 0; k < width; ++k)
            for (Index j = 0; j < width; ++j) one[j] += double(T[i * width + k]) * inverse[k * width + j];
        for (Index j = 0; j < width; ++j) {
            lack += one[j] * one[j];
            of_V[j * width + i] = T[i * width + j];
            V_squares += double(T[i * width + j]) * T[i * width + j];
            h_squares += double(inverse[i * width + j]) * inverse[i * width + j];
        }
    }
    const double rounding = double(width + 8) * ulp;  // of a row's own numbers, and of a product with them
    V_error = float(room * rounding * std::sqrt(V_squares));
    h_error = float(room * (rounding * (1 + std::sqrt(h_squares)) + std::sqrt(lack)));  // 1: of z itself, as it is computed
}

void Rounded::round(const Turn& turn, Index count, const float* h) {
    const Index width = turn.width;
    turned_.resize(count * width);
    products({single, width, width, turn.of_h.data(), nullptr}, nullptr, count, h, turned_.data());
    round(turn.kept, width, count, turned_.data());
    const float slack = 1 + float(width) * ulp;
    for (Index m = 0; m < count; ++m) {
        float squares = 0, left_out = 0;
        for (Index j = 0; j < width; ++j) squares += h[m * width + j] * h[m * width + j];
        for (Index j = turn.kept; j < width; ++j) left_out += turned_[m * width + j] * turned_[m * width + j];
        others[m] += turn.h_error * std::sqrt(squares) * slack;
        rests[m] = std::sqrt(left_out) * slack;
    }
}

void Rounded::round(Index width, Index distance, Index count, const float* h) {
    stride = (width + lanes16 - 1) / lanes16 * lanes16;
    first_ = aligned(memory_, count * stride);
    std::fill(first_, first_ + count * stride, std::int16_t(0));
    units.resize(count), lengths.resize(count), others.resize(count), rests.assign(count, 0.0f);
    // No sum of products with int8, in whatever order, leaves 32 bits.
    const float reach = std::floor(std::min(32767.0f, 2147483000.0f / (128.0f * float(width))));
    for (Index m = 0; m < count; ++m, h += distance) {
        float most = 0, squares = 0, off = 0;
        for (Index j = 0; j < width; ++j) most = std::max(most, std::abs(h[j]));
        const float unit = most / reach, inverse = unit > 0 ? 1 / unit : 0;
        for (Index j = 0; j < width; ++j) {
            const float nearest = std::max(-reach, std::min(reach, std::nearbyint(h[j] * inverse)));
            const float left = h[j] - unit * nearest;
            first_[m * stride + j] = std::int16_t(nearest);
            squares += h[j] * h[j];
            off += left * left;
        }
        const float slack = 1 + float(width) * ulp;
        units[m] = unit;
        lengths[m] = std::sqrt(squares) * slack;
        others[m] = std::sqrt(off) * slack + float(width + 8) * ulp * lengths[m];
    }
}

void Sketch::note(Index row, const double* exact, double length, bool is_there) {
    if (!is_there) {
        double most = 0;
        for (Index j = 0; j < width_; ++j) most = std::max(most, std::abs(exact[j]));
        scales_[row] = float(most / largest);
        const double inverse = scales_[row] > 0 ? 1 / double(scales_[row]) : 0;
        for (Index j = 0; j < width_; ++j) made_[row * width_ + j] = whole(exact[j] * inverse);
    }
    double left = 0, others = 0;
    for (Index j = 0; j < width_; ++j) {
        const double near = double(scales_[row]) * integers_[row * width_ + j];
        left += (exact[j] - near) * (exact[j] - near);
        others += near * near;
    }
    errors_[row] = float(room * std::sqrt(left));
    lengths_[row] = float(room * std::max(length, std::sqrt(others)));
}

void Sketch::copy_biases(const Matrix& V, const void* c) {
    if (c == nullptr) return;
    c_.resize(rows_);
    for (Index r = 0; r < rows_; ++r)
        c_[r] = V.form == doubles ? float(static_cast<const double*>(c)[r]) : static_cast<const float*>(c)[r];
}

Sketch::Sketch(const Matrix& V, const void* c) : Sketch(V, V.width) {
    if (V.form == int8) {
        integers_ = static_cast<const std::int8_t*>(V.values);
        scales_.assign(V.scales, V.scales + V.rows);
    } else {
        made_.resize(rows_ * width_);
        integers_ = made_.data();
        scales_.resize(rows_);
    }
    std::vector<double> exact(width_);
    for (Index r = 0; r < rows_; ++r) {
        double squares = 0;
        for (Index j = 0; j < width_; ++j) {
            exact[j] = number(V, r, j);
            squares += exact[j] * exact[j];
        }
        note(r, exact.data(), std::sqrt(squares), V.form == int8);
    }
    copy_biases(V, c);
}

Sketch::Sketch(const Matrix& V, const void* c, const Turn& turn) : Sketch(V, turn.kept) {
    const Index width = V.width;
    made_.resize(rows_ * width_), scales_.resize(rows_), rests_.resize(rows_);
    integers_ = made_.data();
    std::vector<float> plain(block * width), turned(block * width);
    std::vector<double> exact(width_);
    for (Index start = 0; start < rows_; start += block) {
        const Index rows = std::min(block, rows_ - start);
        for (Index r = 0; r < rows; ++r)
            for (Index j = 0; j < width; ++j) plain[r * width + j] = float(number(V, start + r, j));
        products({single, width, width, turn.of_V.data(), nullptr}, nullptr, rows, plain.data(), turned.data());
        for (Index r = 0; r < rows; ++r) {
            const float *v = plain.data() + r * width, *own = turned.data() + r * width;
            double squares = 0, kept = 0, left_out = 0;
            for (Index j = 0; j < width; ++j) squares += double(v[j]) * v[j];
            for (Index j = 0; j < width_; ++j) exact[j] = own[j], kept += double(own[j]) * own[j];
            for (Index j = width_; j < width; ++j) left_out += double(own[j]) * own[j];
            const double length = std::sqrt(squares), error = turn.V_error * length;
            note(start + r, exact.data(), std::max(length, std::sqrt(kept + left_out)) + error, false);
            errors_[start + r] += float(room * error);
            rests_[start + r] = float(room * (std::sqrt(left_out) + error));
        }
    }
    copy_biases(V, c);
}

void Sketch::bound(const Rounded& h, const std::vector<Index>& chosen, float* least, float* most, float* highs) const {
    const Index count = Index(chosen.size());
    std::vector<Seen> seen(count);
    std::vector<const std::int16_t*> integers;
    for (const Index m : chosen) integers.push_back(h.integers(m));
    const std::int16_t* const alone = integers[0];
    std::optional<Several> several;
    if (count > 1) several.emplace(width_, h.stride, std::move(integers));
    std::vector<std::int32_t> sums((count + Several::padding - 1) / Several::padding * Several::padding * block);
    for (Index start = 0; start < rows_; start += block) {
        const Index rows = std::min(block, rows_ - start);
        const std::int8_t* const q = integers_ + start * width_;
        if (several) several->products(rows, q, sums.data(), block);
        else integer_products(rows, width_, q, alone, sums.data());
        for (Index i = 0; i < count; ++i)
            see(seen[i],
                {start, rows, scales_.data(), errors_.data(), lengths_.data(), rests_.empty() ? nullptr : rests_.data(),
                 c_.empty() ? nullptr : c_.data(), h.units[chosen[i]], h.lengths[chosen[i]], h.others[chosen[i]],
                 h.rests[chosen[i]]},
                sums.data() + i * block, highs + i * rows_ + start);
    }
    for (Index i = 0; i < count; ++i) {
        const float log_sum = seen[i].shift + float(std::log(seen[i].sum));
        least[i] = log_sum - (1e-4f + 4 * ulp * std::abs(log_sum));  // what these lines and the exponentials round
        most[i] = seen[i].most;
    }
}

}  // namespace glassgate::runtime
