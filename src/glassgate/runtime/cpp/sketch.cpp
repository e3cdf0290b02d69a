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

// Memory from the start of a cache line on: a vector that lies across two lines takes two reads.
class Integers {
  public:
    explicit Integers(Index size) : memory_(size + line) {}
    std::int16_t* data() {
        const auto past = reinterpret_cast<std::uintptr_t>(memory_.data()) / sizeof(std::int16_t) % line;
        return memory_.data() + (line - past);
    }

  private:
    static constexpr Index line = 32;
    std::vector<std::int16_t> memory_;
};

// One h in 16 bits, and what that costs.
struct Rounded {
    Integers integers;
    float unit, length, others;  // h ~ unit * integers; |h|; what is added to e_j for each length of a row
};

INLINE Rounded rounded(Index width, const float* h) {
    // No sum of products with int8, in whatever order, leaves 32 bits.
    const float reach = std::floor(std::min(32767.0f, 2147483000.0f / (127.0f * float(width))));
    float largest = 0, squares = 0, off = 0;
    for (Index j = 0; j < width; ++j) largest = std::max(largest, std::abs(h[j]));
    Rounded x{Integers(width), largest / reach, 0, 0};
    std::int16_t* const integers = x.integers.data();
    const float inverse = largest > 0 ? 1 / x.unit : 0;
    for (Index j = 0; j < width; ++j) {
        const float nearest = std::nearbyint(h[j] * inverse), left = h[j] - x.unit * nearest;
        integers[j] = std::int16_t(nearest);
        squares += h[j] * h[j];
        off += left * left;
    }
    const float slack = 1 + float(width) * ulp;
    x.length = std::sqrt(squares) * slack;
    x.others = std::sqrt(off) * slack + float(width + 8) * ulp * x.length;
    return x;
}

// sums[r] = sum_j q[r][j] x[j] for the rows of a block; four of them share the loads of x.
INLINE void products(Index rows, Index width, const std::int8_t* q, const std::int16_t* x, std::int32_t* sums) {
    for (Index r = 0; r < rows; r += several) {
        const std::int8_t* row[several];
        for (Index i = 0; i < several; ++i) row[i] = q + std::min(r + i, rows - 1) * width;
        std::int32_t first = 0, second = 0, third = 0, fourth = 0;
        for (Index j = 0; j < width; ++j) {
            first += std::int32_t(row[0][j]) * x[j];
            second += std::int32_t(row[1][j]) * x[j];
            third += std::int32_t(row[2][j]) * x[j];
            fourth += std::int32_t(row[3][j]) * x[j];
        }
        sums[r] = first, sums[r + 1] = second, sums[r + 2] = third, sums[r + 3] = fourth;
    }
}

// The same for two h, which share the loads of the rows: those are read from 16 bits.
INLINE void products(Index rows, Index width, const std::int16_t* q, const std::int16_t* x, const std::int16_t* y,
                     std::int32_t* of_x, std::int32_t* of_y) {
    for (Index r = 0; r < rows; r += several) {
        const std::int16_t* row[several];
        for (Index i = 0; i < several; ++i) row[i] = q + std::min(r + i, rows - 1) * width;
        std::int32_t x0 = 0, x1 = 0, x2 = 0, x3 = 0, y0 = 0, y1 = 0, y2 = 0, y3 = 0;
        for (Index j = 0; j < width; ++j) {
            x0 += std::int32_t(row[0][j]) * x[j], y0 += std::int32_t(row[0][j]) * y[j];
            x1 += std::int32_t(row[1][j]) * x[j], y1 += std::int32_t(row[1][j]) * y[j];
            x2 += std::int32_t(row[2][j]) * x[j], y2 += std::int32_t(row[2][j]) * y[j];
            x3 += std::int32_t(row[3][j]) * x[j], y3 += std::int32_t(row[3][j]) * y[j];
        }
        of_x[r] = x0, of_x[r + 1] = x1, of_x[r + 2] = x2, of_x[r + 3] = x3;
        of_y[r] = y0, of_y[r + 1] = y1, of_y[r + 2] = y2, of_y[r + 3] = y3;
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
    Integers wide(count > 1 ? block * width : 0);  // a block of V that all h share
    std::int32_t sums[2][block] = {};
    for (Index start = 0; start < sketch.rows; start += block) {
        const Index rows = std::min(block, sketch.rows - start);
        const std::int8_t* const q = sketch.integers + start * width;
        std::int16_t* const same = wide.data();
        for (Index i = 0; count > 1 && i < rows * width; ++i) same[i] = q[i];
        for (Index m = 0; m < count; m += 2) {
            Rounded &one = vectors[m], &other = vectors[std::min(m + 1, count - 1)];
            if (count == 1) products(rows, width, q, one.integers.data(), sums[0]);
            else products(rows, width, same, one.integers.data(), other.integers.data(), sums[0], sums[1]);
            see(seen[m], sketch, one, start, rows, sums[0]);
            if (m + 1 < count) see(seen[m + 1], sketch, other, start, rows, sums[1]);
        }
    }
    // What these lines and the exponentials round.
    for (Index m = 0; m < count; ++m) result[m] = seen[m].most - seen[m].shift - float(std::log(seen[m].sum)) + 1e-4f;
}

}  // namespace glassgate::runtime
