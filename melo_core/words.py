"""Word lists of the scope rules, in small letters and without accents."""

import re


def words(text: str) -> list[str]:
    return text.split()


def _pairs(text: str) -> frozenset[frozenset[str]]:
    return frozenset(frozenset(pair.split("/")) for pair in words(text))


NUMBERS = {
    word: str(value)
    for line, first in (
        ("two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen", 2),
        ("eighteen nineteen twenty", 18),
        ("second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth", 2),
        ("ii iii iv", 2),
        ("vi vii viii ix", 6),
        ("xi xii xiii xiv xv xvi", 11),
        ("zwei drei vier funf sechs sieben acht neun zehn", 2),
        ("deux trois quatre cinq six sept huit neuf dix", 2),
        ("dos tres cuatro cinco seis siete ocho nueve diez", 2),
        ("thirty", 30),
        ("forty", 40),
        ("fifty", 50),
        ("sixty", 60),
        ("hundred", 100),
        ("thousand", 1000),
    )
    for value, word in enumerate(words(line), first)
}

NEGATIVE = frozenset(
    words(
        """
            not no never without neither nor none nobody nothing nowhere cannot except nicht kein keine keinen ohne nie
            pas sans jamais sin nunca niet geen zonder non senza mai
        """
    )
)

OPPOSITE = _pairs(
    """
    first/last highest/lowest largest/smallest biggest/smallest greatest/smallest most/least most/fewest
    oldest/youngest oldest/newest eldest/youngest longest/shortest tallest/shortest best/worst before/after
    north/south east/west northern/southern eastern/western male/female winner/loser winners/losers won/lost
    win/lose wins/loses winning/losing begin/end begins/ends began/ended start/end starts/ends started/ended
    start/finish starting/ending beginning/end begin/finish born/die born/died birth/death old/new older/newer
    older/younger buy/sell bought/sold buyer/seller max/min maximum/minimum more/less more/fewer king/queen
    prince/princess father/mother fathers/mothers dad/mom dad/mum son/daughter sons/daughters brother/sister
    brothers/sisters husband/wife uncle/aunt nephew/niece grandfather/grandmother boy/girl boys/girls man/woman
    men/women men's/women's mens/womens actor/actress summer/winter increase/decrease increased/decreased
    upper/lower left/right inside/outside indoor/outdoor indoors/outdoors open/close opens/closes opened/closed
    opening/closing open/closed import/export imports/exports imported/exported top/bottom richest/poorest
    rich/poor fastest/slowest fast/slow domestic/foreign domestic/international national/international
    legal/illegal arrive/leave arrive/depart arrives/departs arrival/departure arrives/leaves arrived/left
    home/away earliest/latest above/below safe/dangerous hot/cold hottest/coldest warmest/coldest high/low
    higher/lower long/short early/late earlier/later minimum/average maximum/average deepest/shallowest
    heaviest/lightest strongest/weakest enter/leave entrance/exit entry/exit join/leave hire/fire hired/fired
    credit/debit deposit/withdraw deposit/withdrawal deposits/withdrawals incoming/outgoing inbound/outbound
    internal/external public/private upload/download install/uninstall enable/disable enabled/disabled on/off
    push/pull lock/unlock encode/decode encrypt/decrypt connect/disconnect attack/defence attack/defense
    defensive/offensive defense/offense allowed/forbidden allowed/prohibited accept/reject accepted/rejected
    accept/refuse accepted/refused employer/employee lender/borrower landlord/tenant teacher/pupil
    teacher/student doctor/patient adult/child adults/children previous/next former/current former/present
    previous/current past/future last/next predecessor/successor day/night daily/weekly daily/monthly
    daily/yearly weekly/monthly monthly/yearly monthly/annual weekday/weekend weekdays/weekends weekdays/sundays
    morning/evening morning/afternoon hero/villain protagonist/antagonist positive/negative same/different
    full/empty raise/lower raised/lowered rise/fall rose/fell gain/lose gained/lost built/demolished
    build/demolish founded/dissolved founded/closed established/dissolved launch/discontinue
    launched/discontinued create/delete created/deleted married/divorced large/small big/small big/little
    larger/smaller bigger/smaller wide/narrow thick/thin light/heavy lighter/heavier strong/weak full/half
    single/double single/married single/return gross/net profit/loss profits/losses revenue/profit revenue/expenses
    income/expenses assets/liabilities wholesale/retail supply/demand debtor/creditor lend/borrow lends/borrows
    rent/buy lessor/lessee plaintiff/defendant guilty/innocent inpatient/outpatient inpatients/outpatients
    acute/chronic benign/malignant mild/severe systolic/diastolic hypertension/hypotension boiling/freezing
    boiling/melting freeze/melt solid/liquid paid/unpaid voluntary/compulsory voluntary/mandatory optional/compulsory
    optional/mandatory oral/written junior/senior primary/secondary urban/rural ancient/modern online/offline
    wired/wireless manual/automatic front/rear horizontal/vertical ascending/descending odd/even sunrise/sunset
    dawn/dusk noon/midnight boarding/landing takeoff/landing embark/disembark input/output inputs/outputs
    prefix/suffix client/server row/column rows/columns sender/recipient sender/receiver source/destination
    origin/destination cause/effect advantage/disadvantage advantages/disadvantages pros/cons strengths/weaknesses
    benefits/risks prey/predator host/guest hosts/guests promote/demote promoted/demoted immigrate/emigrate
    immigration/emigration uptime/downtime majority/minority singular/plural checkin/checkout checkin/departure
    checkout/arrival pickup/dropoff login/logout starttime/endtime
    """
)

# Of each line a question has one word or another: what is asked about one is not asked about the next.
# (A word's forms and synonyms with slashes between.)
EXCLUSIVE = [
    [frozenset(forms.split("/")) for forms in words(line)]
    for line in """
    wrote/written/writes/write directed/directs/direct produced/produces sang/sung/sings/sing painted/paints narrated
    wrote/written/writes designed/designs illustrated translated choreographed
    composed/composes directed/directs produced/produces painted/paints designed/designs
    director producer composer singer painter designer editor narrator illustrator drummer guitarist cinematographer
    writer/author director producer composer singer painter designer narrator illustrator drummer guitarist bassist
    ceo cfo cto coo cio cmo
    treasurer secretary chairman/chairwoman/chairperson/chair auditor
    mayor governor senator congressman president chancellor
    president chancellor king queen emperor pope
    height weight width length area/surface depth population temperature
    address phone/telephone fax email
    salary age height weight
    born died buried
    capital currency population anthem flag language
    mother father sister brother wife husband son daughter uncle aunt grandfather grandmother cousin
    gold silver bronze
    full-time part-time
    coach captain goalkeeper striker referee
    quarterback receiver linebacker kicker coach
    monday tuesday wednesday thursday friday saturday sunday
    mondays tuesdays wednesdays thursdays fridays saturdays sundays
    january february march april may june july august september october november december
    spring summer autumn/fall winter
    breakfast lunch dinner/supper
    red blue green yellow white black orange purple pink brown
    novel/book film/movie song album play painting
    north south east west
    hour/hours day/days week/weeks month/months year/years minute/minutes second/seconds
    hourly daily weekly monthly yearly/annual/annually quarterly
    kilometers/kilometres/km miles meters/metres feet
    euros/euro dollars/dollar pounds/pound yen francs
    children/child/kids adults/adult students/student seniors/senior pensioners
    parents children siblings spouse
    planet moon star constellation galaxy
    bus train tram ferry plane taxi
    debit credit prepaid
    iphone android windows linux macos
    small medium large
    eye/eyes skin/dermatology heart/cardiology/cardiac ear/ears/ent kidney/renal lung/lungs/respiratory brain/neurology
    eye/eyes dental/dentist/teeth maternity/obstetrics cancer/oncology orthopaedic/orthopedic/orthopaedics/orthopedics
    skin/dermatology dental/dentist/teeth maternity/obstetrics cancer/oncology orthopaedic/orthopedic/orthopaedics
    heart/cardiology/cardiac dental/dentist/teeth maternity/obstetrics cancer/oncology psychiatric/psychiatry
    nurse/nurses doctor/doctors/physician/physicians surgeon/surgeons midwife/midwives pharmacist porter receptionist
    cardiology dermatology neurology oncology radiology urology nephrology gynaecology/gynecology pathology haematology
    headteacher/headmaster/headmistress/principal counsellor/counselor caretaker/janitor librarian bursar nurse
    developer/programmer designer maintainer tester translator
    sales marketing finance hr/personnel procurement/purchasing engineering legal
    founder/founders/founded owner/owners/owns/owned spokesperson/spokesman/spokeswoman investor/investors
    garden household/residual paper glass plastic/plastics bulky organic hazardous
    passport visa licence/license
    checking savings mortgage pension
    iban bic/swift
    password/passcode username ssid
    dog/dogs cat/cats horse/horses rabbit/rabbits bird/birds
    car/cars motorcycle/motorcycles/motorbike/motorbikes bicycle/bicycles/bike/bikes lorry/lorries/truck/trucks
    travel motor/car life health pet liability dental
    football/soccer rugby tennis cricket hockey basketball volleyball badminton swimming athletics
    maths/mathematics/math physics chemistry biology history geography latin drama
    science/sciences commerce arts humanities
    tuition hostel/boarding transport uniform/uniforms exam/examination
    water gas electricity sewage
    nursery/kindergarten primary/elementary secondary
    pool sauna gym restaurant bar library canteen/cafeteria kiosk pharmacy laundry playground theatre/theater cinema
    newsletter/newsletters podcast/podcasts magazine/magazines newspaper/newspapers
    app website/site/homepage newsletter
    price/cost/costs colour/color weight material
    mercury venus mars jupiter saturn uranus neptune pluto
    hydrogen helium oxygen nitrogen carbon iron copper zinc
    methane ethane propane butane
    methanol ethanol propanol butanol
    piano violin guitar drums cello flute trumpet saxophone clarinet
    ibuprofen paracetamol/acetaminophen aspirin penicillin amoxicillin
    flu/influenza covid/coronavirus measles tetanus hepatitis polio rabies
    xray/ray mri ct ultrasound ecg/ekg
    cash card/cards cheque/cheques invoice
    morning afternoon evening/night
    beginner/beginners intermediate advanced
    bachelor/bachelors/undergraduate master/masters/postgraduate phd/doctoral/doctorate
    celsius fahrenheit kelvin
    """.strip().splitlines()
]

# Before a role or a thing, they make another one of it.
RANKS = frozenset(words("deputy vice assistant associate previous acting interim honorary"))

EITHER = frozenset({"and", "or", "between", "vs", "und", "et", "y", "en"})

ASKS = {"when": "when", "where": "where", "why": "why", "who": "who", "whom": "who", "whose": "who"}

# Nearly one word, and two: the tolerance for typing errors must not join them.
DISTINCT = _pairs(
    """
    male/female men/women man/woman ceo/cfo ceo/cto ceo/coo cfo/cto cfo/coo cto/coo cio/ceo cio/cto cio/cfo
    cmo/ceo mother/brother other/mother north/south east/west wife/life sun/son sister/mister inbound/outbound
    north/northern import/important install/uninstall legal/illegal upload/download lower/higher former/farmer
    encode/decode encrypt/decrypt increase/decrease minimum/maximum actor/actress prince/princess
    austria/australia iran/iraq niger/nigeria slovakia/slovenia latvia/lithuania mali/malta mali/malawi
    dominica/dominican guinea/guyana gambia/zambia georgia/georgian ireland/iceland sweden/switzerland
    first/fifth sixth/six seven/seventh june/july sunday/monday tuesday/thursday home/rome author/authority
    internal/external national/international hire/fire wrote/write methanol/ethanol methane/ethane internet/intranet
    hypertension/hypotension immigration/emigration checkin/checkout login/logout
    """
)

# Often written with a capital, and no names.
TITLES = frozenset(
    words(
        """
    ceo cfo cto coo cio cmo hr it vat pin id iban mr mrs ms dr prof sir lady lord inc ltd llc plc gmbh ag co
    corp the a an president chairman director officer chief minister king queen prince professor doctor manager
    head county city town state province district republic kingdom company corporation university college school
    hospital museum river lake mount mountain island sea ocean film movie novel book series season episode album
    song band show tv usa uk eu un
    """
    )
)

FUNCTION = frozenset(
    words(
        """
    a an the is are was were be been being do does did has have had can could will would shall should may might
    must of in on at to for from by with about as into than that this these those it its there what which who
    whom whose when where why how please tell me i you we they he she his her their my your our not
    """
    )
)

# What is never taken for a name, however it is written.
ORDINARY = FUNCTION | frozenset(
    words(
        """
    and or if name named called many much long old far big often year years date day month time place city
    country person people first last new current currently now today also known number main answer question word
    one
    """
    )
)

PLACES = frozenset(
    words(
        """
    afghanistan africa african albania algeria america american angola argentina armenia asia australia
    australian austria azerbaijan bahamas bahrain bangladesh barbados belarus belgium belize benin bhutan
    bolivia bosnia botswana brazil british bulgaria burma cambodia cameroon canada canadian chad chile china
    chinese colombia congo croatia cuba cyprus czech denmark dutch ecuador egypt england english eritrea estonia
    ethiopia europe european fiji finland france french gabon gambia georgia german germany ghana greece greek
    grenada guatemala guinea guyana haiti honduras hungary iceland india indian indonesia iran iraq ireland
    irish israel italian italy jamaica japan japanese jordan kazakhstan kenya korea kuwait laos latvia lebanon
    liberia libya lithuania luxembourg madagascar malawi malaysia maldives mali malta mexico mexican moldova
    monaco mongolia montenegro morocco mozambique namibia nepal netherlands nicaragua niger nigeria norway
    norwegian oman pakistan panama paraguay peru philippines poland polish portugal portuguese qatar romania
    russia russian rwanda samoa scotland scottish senegal serbia singapore slovakia slovenia somalia spain
    spanish sudan suriname sweden swedish switzerland swiss syria taiwan tajikistan tanzania thailand togo tonga
    trinidad tunisia turkey turkish uganda ukraine uruguay uzbekistan vanuatu venezuela vietnam wales welsh
    yemen zambia zealand zimbabwe usa uk emirates arabia alabama alaska arizona arkansas california carolina
    colorado connecticut dakota delaware florida hawaii idaho illinois indiana iowa kansas kentucky louisiana
    maine maryland massachusetts michigan minnesota mississippi missouri montana nebraska nevada hampshire
    jersey york ohio oklahoma oregon pennsylvania rhode tennessee texas utah vermont virginia washington
    wisconsin wyoming london paris berlin tokyo delhi mumbai beijing moscow rome madrid chicago boston toronto
    sydney melbourne dubai kolkata chennai bangalore hyderabad amsterdam vienna prague warsaw lisbon dublin oslo
    stockholm copenhagen helsinki brussels athens budapest istanbul cairo munich hamburg zurich geneva lyon
    milan barcelona seattle dallas houston miami atlanta denver philadelphia detroit vancouver montreal utrecht
    rotterdam
    """
    )
)

# With which a clause begins that limits what is asked: "for groups of 20", "if I pay within 14 days".
LIMITING = frozenset(
    words(
        """
        for if with without in at on after before when as during from until till since by per over under above below
        between within once unless of than
        """
    )
)

# What is numbered, also with a Roman I, V or X; and what follows such an I, which may be the word.
COUNTED = "(?i:class|grade|part|type|level|phase|stage|volume|chapter|category|group|tier|unit|module|standard|war)"
AFTER_NUMBER = "at|in|of|for|and|or|to|on|from|admissions?|fees?|tuition|students?|pupils?|exams?|patients?|diabetes"

ALIASES = [
    (re.compile(pattern), name)
    for pattern, name in (
        (r"\b(?:[Uu]nited [Ss]tates(?: of [Aa]merica)?|U\.S\.(?:A\.)?|USA?|(?<=[Tt]he )us|usa)(?=\W|$)", "USA"),
        (r"\b(?:[Uu]nited [Kk]ingdom|(?:[Gg]reat )?[Bb]ritain|U\.K\.|UK)(?=\W|$)", "UK"),
        (r"\b(?:[Ee]uropean [Uu]nion|E\.U\.|EU)(?=\W|$)", "EU"),
        (r"\b[Cc]heck(?:ing)?[- ]?in\b", "checkin"),
        (r"\b[Cc]heck(?:ing)?[- ]?out\b", "checkout"),
        (r"\b[Pp]ick(?:ing)?[- ]?up\b", "pickup"),
        (r"\b[Dd]rop(?:ping)?[- ]?off\b", "dropoff"),
        (r"\b[Tt]ak(?:e|ing)[- ]?off\b", "takeoff"),
        (r"\b[Ll]og(?:ging)?[- ]?(?:in|on)\b", "login"),
        (r"\b[Ll]og(?:ging)?[- ]?(?:out|off)\b", "logout"),
        (r"\b[Ff]rom (?:when|what time) (?:to|until|till) (?:when|what time)\b", "hours"),
        (r"\b(?:[Ff]rom|[Ss]ince) (?:when|(?:what|which) (?:time|hour|day|date|month))\b", "starttime"),
        (r"\b(?:[Uu]ntil|[Tt]ill|[Uu]p to) (?:when|(?:what|which) (?:time|hour|day|date|month))\b", "endtime"),
        (r"\b[Hh]ow late\b", "endtime"),
        (r"\b(?:[Uu]p to (?:what|which|how)|[Aa]t (?:the )?most|[Nn]o more than)\b", "maximum"),
        (r"\b(?:[Aa]t (?:the (?:very )?)?least|[Nn]o less than|[Ff]rom (?:what|which) age)\b", "minimum"),
        (rf"\b({COUNTED}) I(?=\W*$|[?.,;:)]| (?:{AFTER_NUMBER})\b)", r"\1 1"),
        (rf"\b({COUNTED}) V\b", r"\1 5"),
        (rf"\b({COUNTED}) X\b", r"\1 10"),
        (r"\b[Bb]4\b", "before"),
        (r"\b2day\b", "today"),
        (r"\b2mor+ow\b", "tomorrow"),
    )
]
