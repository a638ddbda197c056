/* choices.cu - the file of measured choices (choices.cuh). */
#include "choices.cuh"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <unordered_map>

namespace m2cu
{

struct Choices {
    std::string path;
    int fd;
    off_t read; /* bytes of the file that are in `algo` */
    std::unordered_map<std::string, std::string> algo;
};

static std::string hex(const void *data, size_t bytes)
{
    static const char digits[] = "0123456789abcdef";
    std::string s;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char b = ((const unsigned char *)data)[i];
        s += digits[b >> 4], s += digits[b & 15];
    }
    return s;
}

static int digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static m2_status failed(const Choices *c, const char *what)
{
    return m2_fail(M2_IO, "%s the measured products in %s failed: %s", what, c->path.c_str(),
                   strerror(errno));
}

static m2_status make_folders(const std::string &folder)
{
    for (size_t at = 1; at <= folder.size(); at++)
        if (at == folder.size() || folder[at] == '/')
            if (mkdir(folder.substr(0, at).c_str(), 0777) && errno != EEXIST)
                return m2_fail(M2_IO, "cannot make the folder %s: %s", folder.substr(0, at).c_str(),
                               strerror(errno));
    return M2_OK;
}

m2_status choices_open(const char *folder, const char *gpu, Choices **out)
{
    *out = nullptr;
    M2_TRY(make_folders(folder));
    std::string name = gpu;
    for (char &c : name)
        if (!isalnum((unsigned char)c)) c = '-';
    Choices *c = new Choices{
        std::string(folder) + "/products-" + name + "-" + std::to_string(cublasLtGetVersion()), -1, 0, {}};
    c->fd = open(c->path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (c->fd < 0) {
        m2_status st = failed(c, "opening");
        delete c;
        return st;
    }
    *out = c;
    return M2_OK;
}

void choices_close(Choices *c)
{
    if (!c) return;
    close(c->fd);
    delete c;
}

m2_status choices_read(Choices *c)
{
    std::string text;
    char buf[1 << 14];
    ssize_t n;
    while ((n = pread(c->fd, buf, sizeof buf, c->read + (off_t)text.size())) > 0) text.append(buf, (size_t)n);
    if (n < 0) return failed(c, "reading");
    size_t at = 0, end;
    while ((end = text.find('\n', at)) !=
           std::string::npos) { /* a line that is not whole was never finished */
        size_t key = text.find(' ', at), algo = key == std::string::npos ? key : text.find(' ', key + 1);
        if (algo < end && algo - key - 1 == 2 * sizeof(cublasLtMatmulAlgo_t))
            c->algo.emplace(text.substr(at, key - at),
                            text.substr(key + 1, algo - key - 1)); /* the first counts */
        at = end + 1;
    }
    c->read += (off_t)at;
    return M2_OK;
}

m2_status choices_lock(Choices *c)
{
    return flock(c->fd, LOCK_EX) ? failed(c, "locking") : M2_OK;
}

void choices_unlock(Choices *c)
{
    flock(c->fd, LOCK_UN);
}

bool choices_find(const Choices *c, const void *key, size_t bytes, cublasLtMatmulAlgo_t *out)
{
    auto found = c->algo.find(hex(key, bytes));
    if (found == c->algo.end()) return false;
    unsigned char raw[sizeof *out];
    for (size_t i = 0; i < sizeof raw; i++) {
        int high = digit(found->second[2 * i]), low = digit(found->second[2 * i + 1]);
        if (high < 0 || low < 0) return false;
        raw[i] = (unsigned char)(16 * high + low);
    }
    memcpy(out, raw, sizeof raw);
    return true;
}

m2_status choices_add(Choices *c, const void *key, size_t bytes, const cublasLtMatmulAlgo_t &algo,
                      const char *remark)
{
    std::string k = hex(key, bytes), a = hex(&algo, sizeof algo), line = k + " " + a + " # " + remark + "\n";
    c->algo.emplace(k, a);
    if (write(c->fd, line.data(), line.size()) != (ssize_t)line.size()) return failed(c, "adding to");
    return M2_OK;
}

} // namespace m2cu
