// With z_j the logits, s_j those of the sketch and |z_j - s_j| <= e_j:
//
//     log max_j y_j  =  max_j z_j - log(sum_j exp(z_j))  <=  max_j (s_j + e_j) - log(sum_j exp(s_j - e_j))
//
// e_j is the row's own error times |h| (Cauchy and Schwarz), what rounding h to 16 bits adds, and what float32 may round.
#include "rows.hpp"

#include "softmax.hpp"

namespace glassgate::runtime {

namespace {

constexpr float ulp = 1.2e-7f;  // more than twice float32's rounding
constexpr Index several = 4;    // rows that share the loads of h

// One h in 16 bits, and what that costs.
struct Rounded {
    std::vector<std::int16_t> integers;
    float unit, length, others;  // h ~ unit * integers; |h|; what is added to e_j for each length of a row
};

INLINE Rounded rounded(Index width, const float* h) {
    // No sum of products with int8, in whatever order, leaves 32 bits.
    const float reach = std::floor(std::min(32767.0f, 2147483000.0f / (127.0f * float(width))));
    float largest = 0, squares = 0, off = 0;
    for (Index j = 0; j < width; ++j) largest = std::max(largest, std::abs(h[j]));
    Rounded x{std::vector<std::int16_t>(width), largest / reach, 0, 0};
    const float inverse = largest > 0 ? 1 / x.unit : 0;
    for (Index j = 0; j < width; ++j) {
        const float nearest = std::nearbyint(h[j] * inverse), left = h[j] - x.unit * nearest;
        x.integers[j] = std::int16_t(nearest);
        squares += h[j] * h[j];
        off += left * left;
    }
    const float slack = 1 + float(width) * ulp;
    x.length = std::sqrt(squares) * slack;
    x.others = std::sqrt(off) * slack + float(width + 8) * ulp * x.length;
    return x;
}

// sums[r] = sum_j q[r][j] x[j] for as many rows as fit a block.
template <class Integer> INLINE void products(Index rows, Index width, const Integer* q, const std::int16_t* x, std::int32_t* sums) {
    Index r = 0;
    for (; r + several <= rows; r += several) {
        const Integer *a = q + r * width, *b = a + width, *c = b + width, *d = c + width;
        std::int32_t first = 0, second = 0, third = 0, fourth = 0;
        for (Index j = 0; j < width; ++j) {
            first += std::int32_t(a[j]) * x[j];
            second += std::int32_t(b[j]) * x[j];
            third += std::int32_t(c[j]) * x[j];
            fourth += std::int32_t(d[j]) * x[j];
        }
        sums[r] = first, sums[r + 1] = second, sums[r + 2] = third, sums[r + 3] = fourth;
    }
    for (; r < rows; ++r) {
        std::int32_t sum = 0;
        for (Index j = 0; j < width; ++j) sum += std::int32_t(q[r * width + j]) * x[j];
        sums[r] = sum;
    }
}

// max_j (s_j + e_j), and log(sum_j exp(s_j - e_j)) as a shift and a sum.
struct Seen {
    float most = -std::numeric_limits<float>::infinity(), shift = -std::numeric_limits<float>::infinity();
    double sum = 0;
};

INLINE void see(Seen& seen, const Sketch& sketch, const Rounded& x, Index start, Index rows, const std::int32_t* sums) {
    using V = Vec<float>;
    constexpr Index lanes = width<float>;
    const V nothing{}, unit = broadcast<float>(x.unit), length = broadcast<float>(x.length), others = broadcast<float>(x.others);
    float low[block];
    V most = broadcast<float>(seen.most);
    for (Index i = 0; i < rows; i += lanes) {
        const Index r = start + i, count = std::min(lanes, rows - i);
        kernels::GG_ISA::Mask<float> whole;
        std::memcpy(&whole, sums + i, sizeof whole);
        const V c = sketch.c == nullptr ? nothing : load(sketch.c + r, count);
        const V s = __builtin_convertvector(whole, V) * (unit * load(sketch.scales + r, count)) + c;
        const V error = load(sketch.errors + r, count) * length + load(sketch.lengths + r, count) * others +
                        4 * ulp * (c < nothing ? -c : c);
        kernels::GG_ISA::store(low + i, s - error);
        V high = s + error;
        for (Index lane = count; lane < lanes; ++lane) high[lane] = seen.most;
        most = larger<float>(most, high);
    }
    for (Index lane = 0; lane < lanes; ++lane) seen.most = std::max(seen.most, most[lane]);
    const float shift = std::max(seen.shift, maximum(low, rows));
    seen.sum = seen.sum * std::exp(seen.shift - shift) + sum_of_exponentials(low, rows, shift);
    seen.shift = shift;
}

}  // namespace

FOR_EACH_MACHINE void highest_log_shares(const Sketch& sketch, Index count, const float* h, float* result) {
    const Index width = sketch.width;
    std::vector<Rounded> vectors;
    for (Index m = 0; m < count; ++m) vectors.push_back(rounded(width, h + m * width));
    std::vector<Seen> seen(count);
    std::vector<std::int16_t> wide(count > 1 ? block * width : 0);  // a block of V that all h share
    std::int32_t sums[block] = {};
    for (Index start = 0; start < sketch.rows; start += block) {
        const Index rows = std::min(block, sketch.rows - start);
        const std::int8_t* const q = sketch.integers + start * width;
        if (count > 1) std::copy(q, q + rows * width, wide.begin());
        for (Index m = 0; m < count; ++m) {
            const std::int16_t* const x = vectors[m].integers.data();
            if (count > 1) products(rows, width, wide.data(), x, sums);
            else products(rows, width, q, x, sums);
            see(seen[m], sketch, vectors[m], start, rows, sums);
        }
    }
    // What these lines and the exponentials round.
    for (Index m = 0; m < count; ++m) result[m] = seen[m].most - seen[m].shift - float(std::log(seen[m].sum)) + 1e-4f;
}

}  // namespace glassgate::runtime
