// What the C++ examples share: the description of an exported file, the network's input, and detections from its output.
// Everything that differs between models is read from the file. Needs OpenCV (core, imgproc, imgcodecs) and nlohmann/json.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace onelook {

using Json = nlohmann::json;
using Box = std::array<float, 4>;  // left, top, right, bottom

struct Detection {
    Box box;
    float score;
    int label;
};

// --- The description ---

inline std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("'" + path + "' cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

// Walks the fields of a Protocol Buffers message: calls found(number, content) for each field with a length.
template <typename Found>
void walk_message(std::string_view bytes, Found found) {
    std::size_t at = 0;
    auto number = [&] {
        std::uint64_t value = 0;
        for (int shift = 0; at < bytes.size() && shift < 64; shift += 7) {
            auto byte = static_cast<unsigned char>(bytes[at++]);
            value |= static_cast<std::uint64_t>(byte & 127) << shift;
            if (byte < 128) return value;
        }
        throw std::runtime_error("the model is not an ONNX file, or it is cut off");
    };
    while (at < bytes.size()) {
        auto key = number();
        std::uint64_t size = 0;
        switch (key & 7) {
            case 0: number(); continue;
            case 1: size = 8; break;
            case 2: size = number(); break;
            case 5: size = 4; break;
            default: throw std::runtime_error("the model is not an ONNX file");
        }
        if (size > bytes.size() - at) throw std::runtime_error("the model is cut off");
        if ((key & 7) == 2) found(static_cast<int>(key >> 3), bytes.substr(at, size));
        at += size;
    }
}

// The description inside an ONNX file: the entry "onelook" of its metadata (field 14 of ModelProto; key 1, value 2).
inline Json onnx_description(std::string_view file) {
    std::string description;
    walk_message(file, [&](int field, std::string_view entry) {
        if (field != 14) return;
        std::string key, value;
        walk_message(entry, [&](int part, std::string_view text) { (part == 1 ? key : value) = text; });
        if (key == "onelook") description = value;
    });
    if (description.empty()) throw std::runtime_error("the model was not made by `onelook export`");
    return Json::parse(description);
}

// How boxes become detections.
struct Suppression {
    double confidence = 0.25, iou = 0.45, distance_power = 0.6;
    bool agnostic = false, multi_label = false, clip = false, none = false;
    std::string kind = "iou";
    std::size_t limit = std::numeric_limits<std::size_t>::max(), pool = limit;
};

struct Model {
    int height, width, batch;
    bool suppresses;  // whether NMS is inside the file
    Json frame;
    std::vector<std::string> names;
    Suppression suppression;

    explicit Model(const Json& description) {
        if (description.at("format") != 1) throw std::runtime_error("the model is of a newer format");
        height = description.at("size")[0], width = description.at("size")[1];
        batch = description.at("batch").is_null() ? 1 : description.at("batch").get<int>();
        suppresses = description.at("outputs") == "detections";
        frame = description.at("frame");
        names = description.at("names").get<std::vector<std::string>>();
        auto& chosen = suppression;
        chosen.multi_label = description.at("multi_label");
        if (description.at("architecture").value("one_to_one", false)) chosen.none = true, chosen.limit = 300;
        const Json own = description.value("detecting", Json());
        if (own.is_null()) return;
        auto count = [&](const char* name) { return own[name].is_null() ? chosen.limit : own[name].get<std::size_t>(); };
        chosen.pool = count("pool"), chosen.limit = count("limit");
        chosen.confidence = own["confidence"], chosen.iou = own["iou"], chosen.distance_power = own["distance_power"];
        chosen.agnostic = own["agnostic"], chosen.multi_label = own["multi_label"], chosen.clip = own["clip"];
        chosen.kind = own["kind"];
        if (chosen.kind != "iou" && chosen.kind != "diou") throw std::runtime_error("no NMS of the kind " + chosen.kind);
    }
};

// --- The input ---

// Input pixel = image pixel * scale + offset.
struct Placement {
    double scale_x, scale_y, left, top;
    int width, height;  // of the original image
};

// Bilinear with the corner pixels on each other, as Darknet resizes.
inline cv::Mat resize_aligned(const cv::Mat& image, cv::Size size) {
    struct Place { int before, after; float part; };
    auto places = [](int source, int count) {
        std::vector<Place> found(count);
        for (int i = 0; i < count; ++i) {
            double place = count > 1 ? i * (double(source - 1) / (count - 1)) : 0.0;
            if (i > 0 && i == count - 1) place = source - 1;
            int before = std::min(int(place), std::max(source - 2, 0));
            found[i] = {before, std::min(before + 1, source - 1), float(place - before)};
        }
        return found;
    };
    cv::Mat result(size, CV_8UC3);
    auto rows = places(image.rows, size.height), columns = places(image.cols, size.width);
    std::vector<float> line(image.cols * 3);
    for (int y = 0; y < size.height; ++y) {
        auto above = image.ptr<uchar>(rows[y].before), below = image.ptr<uchar>(rows[y].after);
        for (int i = 0; i < image.cols * 3; ++i) line[i] = above[i] + (float(below[i]) - float(above[i])) * rows[y].part;
        auto out = result.ptr<uchar>(y);
        for (int x = 0; x < size.width; ++x)
            for (int c = 0; c < 3; ++c) {
                float first = line[columns[x].before * 3 + c], second = line[columns[x].after * 3 + c];
                out[x * 3 + c] = cv::saturate_cast<uchar>(std::nearbyint(first + (second - first) * columns[x].part));
            }
    }
    return result;
}

inline cv::Mat resize(const cv::Mat& image, cv::Size size, const std::string& interpolation) {
    if (image.size() == size) return image;
    if (interpolation == "linear_aligned") return resize_aligned(image, size);
    if (interpolation != "linear") throw std::runtime_error("no interpolation of the kind " + interpolation);
    cv::Mat result;
    cv::resize(image, result, size, 0, 0, cv::INTER_LINEAR);
    return result;
}

// The image in the size of the input: stretched, or with its aspect ratio kept and the rest filled.
inline cv::Mat fit(const cv::Mat& image, const Model& model, Placement& placement) {
    const Json& frame = model.frame;
    const std::string interpolation = frame.at("interpolation");
    double width = model.width, height = model.height;
    if (frame.at("type") == "Stretch") {
        placement = {width / image.cols, height / image.rows, 0, 0, image.cols, image.rows};
        return resize(image, {model.width, model.height}, interpolation);
    }
    double ratio = std::min(height / image.rows, width / image.cols);
    if (!frame["longest"].is_null()) ratio = std::min(ratio, frame["longest"].get<double>() / std::max(image.cols, image.rows));
    if (!frame["enlarge"]) ratio = std::min(ratio, 1.0);
    const bool centre = frame["anchor"] == "centre";
    int rows, columns, top = 0, left = 0;
    if (frame["rounding"] == "whole" && frame["enlarge"]) {  // each side gets the scale that whole pixels leave it
        const bool is_wide = std::int64_t(model.width) * image.rows < std::int64_t(model.height) * image.cols;
        columns = is_wide ? model.width : std::max<std::int64_t>(1, std::int64_t(image.cols) * model.height / image.rows);
        rows = is_wide ? std::max<std::int64_t>(1, std::int64_t(image.rows) * model.width / image.cols) : model.height;
        if (centre) top = (model.height - rows) / 2, left = (model.width - columns) / 2;
        placement = {double(columns) / image.cols, double(rows) / image.rows, double(left), double(top), image.cols, image.rows};
    } else {
        auto whole = [&](double side) { return std::max(1, int(frame["rounding"] == "round" ? std::nearbyint(side) : side)); };
        rows = whole(image.rows * ratio), columns = whole(image.cols * ratio);
        if (centre) {
            top = int(std::nearbyint((model.height - rows) / 2.0 - 0.1));
            left = int(std::nearbyint((model.width - columns) / 2.0 - 0.1));
        }
        placement = {ratio, ratio, double(left), double(top), image.cols, image.rows};
    }
    cv::Mat canvas(model.height, model.width, CV_8UC3, cv::Scalar::all(frame["fill"].get<int>()));
    const bool shrinks = placement.scale_x < 1 && !frame["shrink"].is_null();
    resize(image, {columns, rows}, shrinks ? frame["shrink"].get<std::string>() : interpolation)
        .copyTo(canvas(cv::Rect(left, top, columns, rows)));
    return canvas;
}

// The input (batch, 3, height, width), RGB, 0..255. Images after the first of a fixed batch are black.
inline std::vector<float> to_input(const cv::Mat& bgr, const Model& model) {
    const std::size_t area = std::size_t(model.height) * model.width;
    std::vector<float> input(model.batch * 3 * area, 0.0f);
    for (std::size_t i = 0; i < area; ++i)
        for (int c = 0; c < 3; ++c) input[c * area + i] = bgr.data[i * 3 + 2 - c];
    return input;
}

// --- The output ---

inline double overlap(const Box& a, const Box& b, const Suppression& chosen) {
    auto area = [](const Box& box) { return std::max(0.0, double(box[2]) - box[0]) * std::max(0.0, double(box[3]) - box[1]); };
    double width = std::max(0.0, double(std::min(a[2], b[2])) - std::max(a[0], b[0]));
    double height = std::max(0.0, double(std::min(a[3], b[3])) - std::max(a[1], b[1]));
    const double least = std::numeric_limits<double>::min();
    double iou = width * height / std::max(area(a) + area(b) - width * height, least);
    if (chosen.kind == "iou") return iou;
    double x = (double(a[0]) + a[2] - b[0] - b[2]) / 2, y = (double(a[1]) + a[3] - b[1] - b[3]) / 2;
    double across = double(std::max(a[2], b[2])) - std::min(a[0], b[0]), down = double(std::max(a[3], b[3])) - std::min(a[1], b[1]);
    return iou - std::pow((x * x + y * y) / std::max(across * across + down * down, least), chosen.distance_power);
}

// Detections of boxes (rows, 4) and scores (rows, classes): best first, in pixels of the input.
inline std::vector<Detection> suppress(const float* boxes, const float* scores, std::size_t rows, std::size_t classes,
                                       const Suppression& chosen) {
    std::vector<Detection> found;
    for (std::size_t row = 0; row < rows; ++row) {
        Box box{boxes[row * 4], boxes[row * 4 + 1], boxes[row * 4 + 2], boxes[row * 4 + 3]};
        if (!std::all_of(box.begin(), box.end(), [](float side) { return std::isfinite(side); })) continue;
        const float *first = scores + row * classes, *best = std::max_element(first, first + classes);
        for (const float* score = chosen.multi_label ? first : best; score != first + classes; ++score) {
            if (*score >= float(chosen.confidence)) found.push_back({box, *score, int(score - first)});
            if (!chosen.multi_label) break;
        }
    }
    std::stable_sort(found.begin(), found.end(), [](auto& a, auto& b) { return a.score > b.score; });
    if (found.size() > chosen.pool) found.resize(chosen.pool);
    std::vector<Detection> kept;
    for (const auto& one : found) {
        auto hides = [&](const Detection& other) {
            return (chosen.agnostic || other.label == one.label) && overlap(one.box, other.box, chosen) > chosen.iou;
        };
        if (kept.size() == chosen.limit) break;
        if (chosen.none || std::none_of(kept.begin(), kept.end(), hides)) kept.push_back(one);
    }
    return kept;
}

// One line of JSON: the detections of an image, with boxes in its pixels.
inline void print(const std::string& source, const std::vector<Detection>& detections, const Model& model, const Placement& place) {
    Json rows = Json::array();
    for (auto one : detections) {
        for (int i = 0; i < 4; ++i) {
            float offset = float(i % 2 ? place.top : place.left), scale = float(i % 2 ? place.scale_y : place.scale_x);
            one.box[i] = (one.box[i] - offset) / scale;
            if (model.suppression.clip) one.box[i] = std::clamp(one.box[i], 0.0f, float(i % 2 ? place.height : place.width));
        }
        Json name = std::size_t(one.label) < model.names.size() ? model.names[one.label] : std::to_string(one.label);
        rows.push_back({{"box", one.box}, {"score", one.score}, {"label", one.label}, {"name", name}});
    }
    std::cout << Json{{"source", source}, {"width", place.width}, {"height", place.height}, {"detections", rows}} << std::endl;
}

// Runs `detect(input)` -> detections in pixels of the input, on every image of the command line.
template <typename Detect>
void detect_all(const Model& model, int count, char** images, Detect detect) {
    for (int i = 0; i < count; ++i) {
        cv::Mat image = cv::imread(images[i], cv::IMREAD_COLOR);  // turned upright by its EXIF
        if (image.empty()) throw std::runtime_error(std::string("'") + images[i] + "' is not an image that can be read");
        Placement placement;
        cv::Mat fitted = fit(image, model, placement);
        print(images[i], detect(to_input(fitted, model)), model, placement);
    }
}

// Runs a program: an error is one line, and the exit code 1.
template <typename Program>
int run(int argc, char** argv, Program program) {
    if (argc < 3) {
        std::cerr << "usage: " << argv[0] << " MODEL IMAGE...\n";
        return 2;
    }
    try {
        program();
        return 0;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}

}  // namespace onelook
